#!/usr/bin/env bash
# Spoken digits, from recordings to a codec, a recogniser and a voice: how the bundled checkpoints were made.
#
#   recipes/digits.sh FOLDER
#
# FOLDER has recordings of single digits with transcripts, such as the bundled subset of the Free Spoken Digit Dataset
# (`voder demo` unpacks it to demo/recordings/known) or the whole of it. About an hour and a half on two cores.
set -euo pipefail
folder=${1:?give the folder of recordings: recipes/digits.sh FOLDER}

voder prepare "$folder" -o data

# A codec of 25 frames a second and 800 bit/s. Mel distances only: it is intelligible after a minute.
voder train spectral --preset demo --data data -o runs/codec loop.steps=4000

# Half precision halves what ships; the voice is trained on the codes of exactly these weights.
python "$(dirname "$0")/../scripts/bundle_checkpoint.py" runs/codec spectral/demo --into bundled
voder tokenize data --tokenizer bundled/spectral/demo -o tokens

# The recogniser hears strings of one to four joined digits, varied in speed, pitch, level and noise.
voder train ctc --preset demo --data data -o runs/ears loop.steps=3000 loop.ema_decay=0.998 \
    loop.evaluate_every=500 loop.save_every=500

# The voice composes endless strings out of single digits; 3 % of all strings of 3 to 5 digits are never composed.
voder train valle --preset demo --data tokens -o runs/voice loop.steps=14000 task.curriculum_steps=2500 \
    loop.ema_decay=0.999 loop.evaluate_every=1000 loop.save_every=1000

voder eval runs/codec --data data --judge runs/ears -o reports/codec
voder eval runs/ears --data data -o reports/ears
voder eval runs/voice --data data --judge runs/ears -o reports/voice
voder say "three one four one five" --voice jackson --model runs/voice -o out.wav
voder transcribe out.wav --model runs/ears
