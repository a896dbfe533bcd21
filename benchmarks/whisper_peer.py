"""Whisper here beside faster-whisper: the same weights, samples and options, one thread each.

    python benchmarks/whisper_peer.py --data DATA --model whisper-base --peer-python PEER/bin/python \\
        --peer-model FOLDER -o runs/whisper-peer [--tasks greedy beam prompts translate long sounds]

DATA holds folders with a manifest.jsonl: librispeech_tc100, asterisk_prompts, music_* (others in their layout will do).
PEER is an environment with faster-whisper in it, FOLDER the same weights in CTranslate2's layout (`model.bin`,
`config.json`, `tokenizer.json`). Both get the same 16 kHz float32 samples, so nothing but the recogniser differs.
Every task keeps all texts in OUTPUT (TASK.ours.json, TASK.peer.json) and prints rows of figures; what is there already
is only printed again.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

RATE_HZ = 16_000
TASKS = ("greedy", "beam", "prompts", "translate", "long", "sounds")


def peer(job_file: str) -> None:
    """Runs in the peer's environment: answer every clip of a job, one after the other."""
    import numpy as np
    from faster_whisper import WhisperModel

    job = json.loads(Path(job_file).read_text())
    model = WhisperModel(job["model"], device="cpu", compute_type="float32", cpu_threads=1, local_files_only=True)
    began, rows = time.process_time(), []
    for clip in job["clips"]:
        options = {**job["options"], **clip.get("options", {})}
        segments, info = model.transcribe(np.load(clip["samples"]), **options)
        found = [[s.start, s.end, s.text] for s in segments]
        rows.append({"text": "".join(s[2] for s in found).strip(), "language": info.language, "segments": found})
    Path(job["output"]).write_text(json.dumps({"cpu_s": time.process_time() - began, "rows": rows}))


def ours(job: dict[str, Any]) -> dict[str, Any]:
    """Answer every clip of a job here, eight side by side where their options are equal."""
    import numpy as np
    import torch

    from voder import hub
    from voder.audio.io import AudioClip

    torch.set_num_threads(1)
    listener = hub.load(job["ours"])
    began = time.process_time()
    rows: list[dict[str, Any] | None] = [None] * len(job["clips"])
    groups: dict[str, list[int]] = {}
    for number, clip in enumerate(job["clips"]):
        groups.setdefault(json.dumps({**job["options"], **clip.get("options", {})}), []).append(number)
    for options, numbers in groups.items():
        configured = listener.configured(**json.loads(options))
        for start in range(0, len(numbers), 8):
            chosen = numbers[start : start + 8]
            clips = [AudioClip(np.load(job["clips"][i]["samples"])[None], RATE_HZ) for i in chosen]
            for i, heard in zip(chosen, configured.listen_batch(clips), strict=True):
                found = [[s.start_s, s.end_s, s.text] for s in heard.segments]
                rows[i] = {"text": heard.text, "language": heard.language, "segments": found}
    return {"cpu_s": time.process_time() - began, "rows": rows}


def run(name: str, clips: list[dict[str, Any]], options: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """Both recognisers over one job; what each said is kept, and not asked for again."""
    files = {by: args.output / f"{name}.{by}.json" for by in ("job", "ours", "peer")}
    job = {
        "clips": clips,
        "options": options,
        "ours": args.model,
        "model": args.peer_model,
        "output": str(files["peer"]),
    }
    files["job"].write_text(json.dumps(job))
    if not files["peer"].is_file() and args.only != "voder":
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([args.peer_python, __file__, "--peer-job", str(files["job"])], check=True, env=environment)
    if not files["ours"].is_file() and args.only != "peer":
        files["ours"].write_text(json.dumps(ours(job), ensure_ascii=False))
    if args.only:
        return {}
    return {"clips": clips, **{by: json.loads(files[by].read_text()) for by in ("ours", "peer")}}


def manifest(folder: Path) -> list[dict[str, Any]]:
    """Rows of a manifest with a text."""
    lines = (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    return [row | {"folder": str(folder)} for row in map(json.loads, lines)]


def stored(samples: Any, name: str, args: argparse.Namespace, **more: Any) -> dict[str, Any]:
    """Write a clip's samples where both can read them."""
    import numpy as np

    file = args.output / "samples" / f"{name.replace('/', '_')}.npy"
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.is_file():
        np.save(file, np.asarray(samples, np.float32))
    return {"samples": str(file), "name": name, "duration_s": len(samples) / RATE_HZ, **more}


def read(row: dict[str, Any]) -> Any:
    """A row's mono samples."""
    from voder.audio.io import read_audio

    return read_audio(Path(row["folder"]) / row["audio"], sample_rate_hz=RATE_HZ, channels=1).samples[0]


def speech(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Utterances of LibriSpeech with their texts."""
    rows = [row for row in manifest(args.data / "librispeech_tc100") if row["text"]][: args.utterances]
    return [stored(read(row), row["id"], args, text=row["text"]) for row in rows]


def prompts(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The first prompts of each language, with their text and their English counterpart."""
    rows = [row for row in manifest(args.data / "asterisk_prompts") if row["text"]]
    english = {row["pair_key"]: row["text"] for row in rows if row["language"] == "en"}
    chosen: list[dict[str, Any]] = []
    for language in sorted({row["language"] for row in rows}):
        chosen += [row for row in rows if row["language"] == language][: args.prompts]
    return [
        stored(
            read(row),
            row["id"],
            args,
            text=row["text"],
            language=row["language"],
            english=english.get(row["pair_key"]),
        )
        for row in chosen
    ]


def joined(args: argparse.Namespace) -> list[dict[str, Any]]:
    """One recording of at least ten minutes: utterances with half a second between them."""
    import numpy as np

    pieces, texts, length = [], [], 0
    for clip in speech(args):
        pieces += [np.load(clip["samples"]), np.zeros(RATE_HZ // 2, np.float32)]
        texts.append(clip["text"])
        length += len(pieces[-2]) + len(pieces[-1])
        if length > args.minutes * 60 * RATE_HZ:
            break
    return [stored(np.concatenate(pieces), "joined", args, text=" ".join(texts))]


def sounds(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Nobody speaks: silence, noise, tones, music."""
    import numpy as np

    t = np.arange(20 * RATE_HZ) / RATE_HZ
    noise = np.random.default_rng(0).standard_normal(len(t))
    made = {
        "silence 20 s": 0 * t,
        "silence 0.3 s": 0 * t[: RATE_HZ * 3 // 10],
        "white noise, quiet": 0.005 * noise,
        "white noise, loud": 0.2 * noise,
        "tone 440 Hz": 0.3 * np.sin(2 * np.pi * 440 * t),
        "sweep 100 Hz to 4 kHz": 0.3 * np.sin(2 * np.pi * (100 * t + 97.5 * t**2)),
        "chord": 0.1 * sum(np.sin(2 * np.pi * f * t) for f in (220, 277.2, 329.6)),
        "clicks": 0.5 * (np.arange(len(t)) % 8000 == 0),
    }
    clips = [stored(samples, name, args) for name, samples in made.items()]
    for folder in sorted(args.data.glob("music_*")):
        clips += [stored(read(row), f"{folder.name}/{row['id']}", args) for row in manifest(folder)[: args.music]]
    return clips


def word_figures(name: str, result: dict[str, Any]) -> str:
    """WER of both against the text, and how often they say the same."""
    import jiwer

    from voder.systems.whisper.normalize import normalize_text

    texts = [normalize_text(clip["text"]) for clip in result["clips"]]
    said = {by: [normalize_text(row["text"]) for row in result[by]["rows"]] for by in ("ours", "peer")}
    wer = {by: 100 * jiwer.wer(texts, said[by]) for by in said}
    same = sum(a == b for a, b in zip(said["ours"], said["peer"], strict=True))
    return f"{name} | {len(texts)} | WER {wer['ours']:.2f} % | {wer['peer']:.2f} % | same text {same} of {len(texts)}"


def prompt_figures(result: dict[str, Any]) -> list[str]:
    """CER by language, and how often the language was told."""
    import jiwer

    from voder.systems.whisper.normalize import normalize_text

    lines = []
    for language in sorted({clip["language"] for clip in result["clips"]}):
        rows = [i for i, clip in enumerate(result["clips"]) if clip["language"] == language]
        texts = [normalize_text(result["clips"][i]["text"], None) for i in rows]
        cer, told = {}, {}
        for by in ("ours", "peer"):
            answers = [result[by]["rows"][i] for i in rows]
            cer[by] = 100 * jiwer.cer(texts, [normalize_text(row["text"], None) for row in answers])
            told[by] = sum(row["language"] == language for row in answers)
        lines.append(
            f"prompts {language} | {len(rows)} | CER {cer['ours']:.2f} % | {cer['peer']:.2f} % | "
            f"language told {told['ours']} and {told['peer']}"
        )
    return lines


def translation_figures(result: dict[str, Any]) -> list[str]:
    """BLEU against the English prompts."""
    import sacrebleu

    lines = []
    languages = sorted({clip["language"] for clip in result["clips"]})
    for group in [[language] for language in languages] + [languages]:
        rows = [i for i, clip in enumerate(result["clips"]) if clip["language"] in group]
        references = [[result["clips"][i]["english"] for i in rows]]
        bleu = {
            by: sacrebleu.corpus_bleu([result[by]["rows"][i]["text"] for i in rows], references).score
            for by in ("ours", "peer")
        }
        name = group[0] if len(group) == 1 else "all"
        lines.append(f"translate {name} | {len(rows)} | BLEU {bleu['ours']:.1f} | {bleu['peer']:.1f} |")
    return lines


def long_figures(result: dict[str, Any]) -> list[str]:
    """WER of the whole, and whether times keep their order and stay inside."""
    clip = result["clips"][0]
    notes = []
    for by in ("ours", "peer"):
        segments = result[by]["rows"][0]["segments"]
        past = sum(end > clip["duration_s"] + 1e-6 for _, end, _ in segments)
        back = sum(b[0] < a[0] for a, b in pairwise(segments))
        notes.append(f"{by}: {len(segments)} segments, {past} past the end, {back} out of order")
    return [word_figures(f"joined, {clip['duration_s'] / 60:.1f} min", result), *(f"  {note}" for note in notes)]


def sound_figures(result: dict[str, Any]) -> list[str]:
    """What each heard where nobody speaks."""
    from voder.systems.whisper.decoding import compression_ratio

    lines = []
    for clip, mine, theirs in zip(result["clips"], result["ours"]["rows"], result["peer"]["rows"], strict=True):
        loop = " LOOP" if mine["text"] and compression_ratio(mine["text"]) > 2.4 else ""
        lines.append(f"sounds {clip['name']} | {mine['text'][:60]!r}{loop} | {theirs['text'][:60]!r}")
    empty = {by: sum(not row["text"] for row in result[by]["rows"]) for by in ("ours", "peer")}
    return [*lines, f"sounds, empty text | {len(lines)} | {empty['ours']} | {empty['peer']} |"]


def jobs(task: str, args: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The clips of a task, and the options that both are given."""
    if task in ("greedy", "beam"):
        return speech(args), {"language": "en", "beam_size": 5 if task == "beam" else 1}
    if task == "prompts":
        return prompts(args), {"beam_size": 1}
    if task == "translate":
        clips = [clip for clip in prompts(args) if clip["language"] != "en" and clip["english"]]
        clips = [clip | {"options": {"language": clip["language"]}} for clip in clips]
        return clips, {"task": "translate", "beam_size": 1}
    return joined(args) if task == "long" else sounds(args), {"language": "en", "beam_size": 1}


def measure(task: str, args: argparse.Namespace) -> list[str]:
    """Run one task and say its figures."""
    result = run(task, *jobs(task, args), args)
    figures = {
        "prompts": prompt_figures,
        "translate": translation_figures,
        "long": long_figures,
        "sounds": sound_figures,
    }
    lines = figures[task](result) if task in figures else [word_figures(task, result)]
    seconds = sum(clip["duration_s"] for clip in result["clips"])
    speed = {by: seconds / result[by]["cpu_s"] for by in ("ours", "peer")}
    return [
        *lines,
        f"  {task}: {seconds:.0f} s of audio, {speed['ours']:.1f} and {speed['peer']:.1f} x real time of one core",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--model", default="whisper-base")
    parser.add_argument("--peer-python")
    parser.add_argument("--peer-model")
    parser.add_argument("--utterances", type=int, default=100)
    parser.add_argument("--prompts", type=int, default=40, help="of each language")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--music", type=int, default=8, help="excerpts of each folder of music")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/whisper-peer"))
    parser.add_argument("--only", choices=("voder", "peer"), help="answer, and leave the figures to a later run")
    parser.add_argument("--peer-job", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer_job:
        peer(args.peer_job)
        return
    args.output.mkdir(parents=True, exist_ok=True)
    if args.only:
        for task in args.tasks:
            run(task, *jobs(task, args), args)
        return
    print("task | clips | voder | faster-whisper | ", flush=True)
    for task in args.tasks:
        print("\n".join(measure(task, args)), flush=True)


if __name__ == "__main__":
    sys.exit(main())
