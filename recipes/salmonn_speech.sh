#!/usr/bin/env bash
# A language model that hears: SALMONN over Whisper base and SmolLM2, and Pengi and NExT-GPT over the same recordings.
#
#   recipes/salmonn_speech.sh FOLDER
#
# FOLDER has recordings with transcripts beside them. To fetch: Whisper base (145 MB, MIT), SmolLM2 (98 MB, Apache-2.0).
set -euo pipefail
folder=${1:?give the folder of recordings: recipes/salmonn_speech.sh FOLDER}

voder prepare "$folder" -o data --require-text
voder fetch whisper-base smollm2-135m-instruct

voder train salmonn --stage pretraining --data data -o runs/salmonn
voder ask "$(find "$folder" -name '*.wav' | head -1)" "What is said?" --model runs/salmonn

voder train pengi --data data -o runs/pengi
voder ask "$(find "$folder" -name '*.wav' | head -1)" "generate audio caption" --model runs/pengi

# What is heard becomes text, text becomes signals of sounds, then both in conversation.
voder train nextgpt --stage encoder_alignment --data data -o runs/hears
voder train nextgpt --stage decoder_alignment --data data -o runs/shows --from runs/hears
voder train nextgpt --stage instruction --data data -o runs/nextgpt --from runs/shows
echo "What can you do?" | voder chat --model runs/nextgpt
