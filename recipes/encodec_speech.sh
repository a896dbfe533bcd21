#!/usr/bin/env bash
# EnCodec from recordings of speech, with its discriminators, then VALL-E over its tokens.
#
#   recipes/encodec_speech.sh FOLDER
#
# FOLDER has recordings with transcripts beside them. On two cores 3000 steps of the codec take about an hour and are not
# yet intelligible (see the card); on a GPU take the preset 24khz. For a first voice in minutes see digits.sh.
set -euo pipefail
folder=${1:?give the folder of recordings: recipes/encodec_speech.sh FOLDER}

voder prepare "$folder" -o data --require-text
voder train encodec --data data -o runs/codec
voder eval runs/codec --data data -o reports/codec

voder tokenize data --tokenizer runs/codec -o tokens
voder train valle --data tokens -o runs/voice
voder eval runs/voice --data data -o reports/voice
