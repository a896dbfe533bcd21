#!/usr/bin/env bash
# One language model for text and speech: SpeechTokenizer, SoundStorm over it, and AnyGPT over its first codebook.
#
#   recipes/anygpt_speech.sh FOLDER
#
# FOLDER has recordings with transcripts beside them. To fetch: HuBERT base (378 MB), the teacher of the first codebook, and
# SmolLM2 (98 MB).
set -euo pipefail
folder=${1:?give the folder of recordings: recipes/anygpt_speech.sh FOLDER}

voder prepare "$folder" -o data --require-text
voder fetch hubert-base-ls960 smollm2-135m-instruct

# A codec whose first codebook is taught the words by HuBERT's ninth layer, and what fills in the other codebooks.
voder train speechtokenizer --data data -o runs/tokenizer task.teacher=hubert-base-ls960@9
voder tokenize data --tokenizer runs/tokenizer -o tokens
voder train soundstorm --data tokens -o runs/soundstorm
voder resynthesize "$(find "$folder" -name '*.wav' | head -1)" --model runs/soundstorm -o resynthesized.wav

# Pairs of speech and text, packed; then conversations.
voder train anygpt --stage pretrain --data tokens -o runs/base task.refiner=runs/soundstorm
voder train anygpt --stage chat --from runs/base --data tokens -o runs/chat task.refiner=runs/soundstorm
voder transcribe "$(find "$folder" -name '*.wav' | head -1)" --model runs/base
echo "Say hello." | voder chat --model runs/chat --want audio
