#!/usr/bin/env bash
# Speech that goes on: AudioLM's three stages over the codes of a codec and the units of an encoder.
#
#   recipes/audiolm_speech.sh FOLDER
#
# FOLDER has recordings; transcripts are not needed. To fetch: EnCodec at 24 kHz (93 MB) and HuBERT base (378 MB).
set -euo pipefail
folder=${1:?give the folder of recordings: recipes/audiolm_speech.sh FOLDER}

voder prepare "$folder" -o data
voder fetch encodec-24khz hubert-base-ls960
voder cluster data --model hubert-base-ls960 --layer 7 --clusters 500 -o runs/units

# Codes of a recording, and inside their folder the units of the same one.
voder tokenize data --tokenizer encodec-24khz --num-codebooks 8 -o tokens
voder tokenize data --tokenizer runs/units -o tokens/units

voder train audiolm --stage semantic --data tokens -o runs/semantic
voder train audiolm --stage coarse --from runs/semantic --data tokens -o runs/coarse
voder train audiolm --stage fine --from runs/coarse --data tokens -o runs/audiolm
voder continue "$(find "$folder" -name '*.wav' | head -1)" --model runs/audiolm --duration 3 -o out.wav
