#!/usr/bin/env bash
# A language model of text that learns to speak, in the three ways of 2401.00246, beside a voice that learns from nothing.
#
#   recipes/llmtts_speech.sh FOLDER
#
# FOLDER has recordings with transcripts beside them. To fetch: SmolLM2 (98 MB, Apache-2.0).
set -euo pipefail
folder=${1:?give the folder of recordings: recipes/llmtts_speech.sh FOLDER}

voder prepare "$folder" -o data --require-text
voder fetch smollm2-135m-instruct
voder train spectral --data data -o runs/codec
voder tokenize data --tokenizer runs/codec -o tokens

voder train valle --data tokens -o runs/valle                                # from nothing
voder train llmtts --data tokens -o runs/coupled                             # C: the language model reads, VALL-E speaks
voder train llmtts --preset superposed_small --data tokens -o runs/superposed # B: VALL-E on top of it
voder train llmtts --preset vocabulary_small --data tokens -o runs/codes     # A: codes are words of its vocabulary

for voice in valle coupled superposed codes; do
    voder eval "runs/$voice" --data data -o "reports/$voice"
done
voder export runs/codes --layout huggingface -o plain
