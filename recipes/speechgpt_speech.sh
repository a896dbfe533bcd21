#!/usr/bin/env bash
# From recordings to a language model that hears and speaks: an encoder, its units, a vocoder of them, SpeechGPT.
#
#   recipes/speechgpt_speech.sh FOLDER
#
# FOLDER has recordings with transcripts beside them. The language model is SmolLM2 (98 MB to fetch, Apache-2.0).
set -euo pipefail
folder=${1:?give the folder of recordings: recipes/speechgpt_speech.sh FOLDER}

voder prepare "$folder" -o data --require-text
voder fetch smollm2-135m-instruct hubert-base-ls960

# Units: a published encoder's ninth layer, in 200 clusters; the vocoder learns to speak them.
voder cluster data --model hubert-base-ls960 --layer 9 --clusters 200 -o runs/units
voder tokenize data --tokenizer runs/units -o tokens
voder train unitvocoder --data tokens -o runs/vocoder
voder resynthesize "$(find "$folder" -name '*.wav' | head -1)" --model runs/vocoder -o resynthesized.wav

# The three stages of the paper: speech goes on, speech and text become each other, questions are answered by way of text.
voder train speechgpt --stage adapt --data tokens -o runs/adapt
voder train speechgpt --stage instruct --from runs/adapt --data tokens -o runs/instruct
voder train speechgpt --stage chain --from runs/instruct --data tokens -o runs/chain task.vocoder=runs/vocoder
voder eval runs/instruct --data data -o reports/instruct
echo "Say hello." | voder chat --model runs/chain
voder export runs/chain --layout huggingface -o plain
