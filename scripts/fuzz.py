"""The long run over damaged files: every reader, on mutated copies of good files.

    python scripts/fuzz.py [READER…] [--inputs 100000] [--seed 0]

A reader may read a damaged file or refuse it with one of voder's own errors; anything else is a finding: another
exception, a crash, more than two seconds for one input, memory far beyond the file's size, or a program, process or
connection started from a file. The last input of a reader stays in its folder, so that a crash can be looked at.
"""

import argparse
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Case = tuple[Path, Callable[[], object]]
"""A file to damage, and what reads it."""

EXTREMES = (0, 1, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**36 - 1, 2**40, 2**63 - 1, 2**64 - 1)
WORDS = (b"NaN", b"1e999", b"-1", b"99999999999999999999", b"null", b"[]", b"{}", b'"', b"\\u0000", b"\xff\xfe")
PROGRAMS = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect", "os.fork", "pty.spawn")
SECONDS = 2.0
MEGABYTES = 300


class Hang(BaseException):
    """An input took too long."""


def mutate(original: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """A damaged copy: flipped bits, extreme numbers, cuts, repeats, splices."""
    data = bytearray(original)
    for _ in range(rng.choice((1, 1, 2, 3, 6))):
        place = rng.randrange(min(len(data), 96) if rng.random() < 0.4 else len(data)) if data else 0
        kind = rng.randrange(9)
        if kind == 0 and data:
            data[place] ^= 1 << rng.randrange(8)
        elif kind == 1 and data:
            data[place] = rng.randrange(256)
        elif kind == 2:
            size, order = rng.choice((2, 4, 8)), rng.choice("<>")
            value = rng.choice(EXTREMES) & (2 ** (8 * size) - 1)
            data[place : place + size] = struct.pack(order + {2: "H", 4: "I", 8: "Q"}[size], value)
        elif kind == 3:
            del data[place:]
        elif kind == 4:
            del data[place : place + rng.randrange(1, 64)]
        elif kind == 5:
            piece = data[place : place + rng.randrange(1, 64)]
            data[place:place] = bytes(piece) * rng.randrange(1, 4)
        elif kind == 6:
            data[place:place] = rng.choice(WORDS)
        elif kind == 7:
            word = rng.choice(WORDS)
            data[place : place + len(word)] = word
        else:
            other = rng.choice(others)
            cut = rng.randrange(len(other) + 1)
            data[place:] = other[cut:]
    return bytes(data)


def audio(folder: Path) -> list[Case]:
    """Every format that is read, short and stereo."""
    import soundfile

    from voder.audio.io import read_audio

    tone = 0.3 * np.sin(np.arange(800) / 5)[:, None].repeat(2, 1)
    kinds = [("wav", s) for s in ("PCM_16", "PCM_24", "FLOAT", "DOUBLE", "ULAW", "PCM_U8")]
    kinds += [("flac", "PCM_16"), ("ogg", "VORBIS"), ("opus", "OPUS"), ("mp3", "MPEG_LAYER_III")]
    kinds += [("aiff", "PCM_16"), ("au", "PCM_16"), ("w64", "PCM_16"), ("caf", "PCM_16"), ("rf64", "PCM_16")]
    cases: list[Case] = []
    for number, (suffix, subtype) in enumerate(kinds):
        file = folder / f"a{number}.{suffix}"
        container = {"opus": "OGG"}.get(suffix, suffix.upper())
        soundfile.write(file, tone, 16_000, subtype=subtype, format=container)
        cases.append((file, lambda file=file: read_audio(file)))  # type: ignore[misc]
    return cases


def manifest(folder: Path) -> list[Case]:
    """A manifest of ours and one of NeMo's, every line used."""
    from voder.audio.io import AudioClip, write_audio
    from voder.data.manifest import Manifest, Utterance, write_manifest

    def read(file: Path) -> object:
        return list(Manifest.open(file))

    ours, nemo = folder / "train.jsonl", folder / "nemo.jsonl"
    for number in range(3):
        write_audio(folder / f"{number}.wav", AudioClip(np.zeros((1, 16000), np.float32), 16000))
    write_manifest(
        ours,
        [
            Utterance(
                id=f"u{i}", audio=folder / f"{i}.wav", duration_s=1.0, num_samples=16000, sample_rate_hz=16000,
                channels=1, text="one two", speaker="ann", language="en", licence="CC0-1.0", source="here",
            )
            for i in range(3)
        ],
    )  # fmt: skip
    nemo.write_text("".join(f'{{"audio_filepath": "{i}.wav", "duration": 1.5, "text": "eins"}}\n' for i in range(2)))
    return [(file, lambda file=file: read(file)) for file in (ours, nemo)]  # type: ignore[misc]


def table(folder: Path) -> list[Case]:
    """Tables that `voder prepare` takes."""
    from voder.corpus.sources import find_recordings

    (folder / "a.wav").write_bytes(b"")
    texts = {
        "t.csv": "audio,text,speaker,duration\na.wav,one,ann,1.0\nb.wav,two,bob,2.0\n",
        "t.tsv": "path\tsentence\tclient_id\na.wav\tone\tann\n",
        "t.jsonl": '{"audio_filepath": "a.wav", "text": "one", "duration": 1}\n',
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    return [(folder / name, lambda name=name: find_recordings(folder / name)) for name in texts]  # type: ignore[misc]


def tokens(folder: Path) -> list[Case]:
    """A token store: its record, a shard, a list."""
    from voder.data.shards import TokenStore

    source = _small_tokens(folder)

    def read() -> None:
        for name in ("train", "valid", "test"):
            split = TokenStore.open(source).split(name)
            for number in range(len(split)):
                split.codes(number)
                split.utterance(number)

    names = ["tokens.json", "train-00000.safetensors", "train-00000.jsonl"]
    return [(source / name, read) for name in names]


def _small_tokens(folder: Path) -> Path:
    from voder.audio.io import AudioClip, write_audio
    from voder.corpus.prepare import prepare_corpus
    from voder.corpus.tokenize import tokenize_corpus

    codec = _saved("encodec", folder / "codec")
    (folder / "raw").mkdir()
    for number in range(6):
        clip = AudioClip(np.sin(np.arange(900 + number) / (5 + number), dtype=np.float32)[None], 8000)
        write_audio(folder / "raw" / f"{number}.wav", clip)
        (folder / "raw" / f"{number}.txt").write_text("one")
    prepare_corpus(folder / "raw", folder / "data", workers=1)
    from voder import hub

    tokenize_corpus(folder / "data", hub.load(codec), codec, folder / "tokens")
    return folder / "tokens"


def config(folder: Path) -> list[Case]:
    """Settings in YAML."""
    from voder import hub
    from voder.config import resolve, to_yaml

    default = hub.find("ctc").preset("tiny")
    file = folder / "settings.yaml"
    file.write_text(to_yaml(default))
    return [(file, lambda: resolve(default, file=file))]


def checkpoint(folder: Path) -> list[Case]:
    """A checkpoint of ours: its configuration and weights; a run's choice of the best."""
    import torch

    from voder import hub
    from voder.interop import look, read_state

    place = _saved("ctc", folder / "run" / "checkpoints" / "step-00000001")
    best = place.parent / "best.json"
    best.write_text('{"checkpoint": "step-00000001", "score": 0.5}')
    foreign = folder / "foreign.pt"
    torch.save({"a.weight": torch.arange(6.0), "b": torch.ones(2, 2)}, foreign)

    def outside() -> None:
        look(foreign)
        read_state(foreign)

    cases: list[Case] = [(place / n, lambda: hub.load(place)) for n in ("config.json", "model.safetensors")]
    return [*cases, (best, lambda: hub.load(folder / "run")), (foreign, outside)]


def ecdc(folder: Path) -> list[Case]:
    """Compressed audio, plain, in segments, and with a language model."""
    from dataclasses import replace

    import torch

    from voder import hub
    from voder.audio.io import AudioClip
    from voder.systems.encodec.infer import compress, read_segments
    from voder.systems.encodec.lm import EntropyLMConfig

    system = hub.find("encodec")
    base = system.preset("tiny").model
    lm = EntropyLMConfig(
        num_codebooks=base.num_codebooks, codebook_size=base.codebook_size, dim=16, num_layers=1, num_heads=2,
        past_frames=20,
    )  # fmt: skip
    kinds = {"plain": base, "segments": replace(base, normalize=True, segment_s=0.1), "lm": replace(base, lm=lm)}
    cases: list[Case] = []
    clip = AudioClip(np.sin(np.arange(1700) / 7, dtype=np.float32)[None], base.sample_rate_hz)
    for name, each in kinds.items():
        torch.manual_seed(0)
        codec: Any = system.build(each).eval()
        file = folder / f"{name}.ecdc"
        file.write_bytes(compress(codec, clip, use_lm=name == "lm"))
        cases.append((file, lambda file=file, codec=codec: read_segments(codec, file.read_bytes())))  # type: ignore[misc]
    return cases


def pickles(folder: Path) -> list[Case]:
    """Foreign files that are read without executing them: k-means centres, fairseq's, CTranslate2's."""
    import pickle

    import torch

    from voder.systems.hubert.unpickle import read_centers, read_fairseq
    from voder.systems.whisper.ctranslate2 import Variables, read_variables, write_variables

    centres, archive = folder / "km.bin", folder / "km.npz"
    centres.write_bytes(pickle.dumps({"cluster_centers_": np.ones((4, 3), np.float32)}))
    np.savez(archive, np.ones((4, 3), np.float32))
    fairseq = folder / "fairseq.pt"
    torch.save({"model": {"a.weight": torch.ones(3)}, "cfg": {"x": 1}}, fairseq)
    model = folder / "model.bin"
    write_variables(model, Variables(specification="WhisperSpec", revision=3, tensors={"a/b": torch.ones(2, 3)}))
    cases: list[Case] = [(file, lambda file=file: read_centers(file)) for file in (centres, archive)]  # type: ignore[misc]
    return [*cases, (fairseq, lambda: read_fairseq(fairseq)), (model, lambda: read_variables(model))]


def _saved(system_name: str, folder: Path) -> Path:
    import torch

    from voder import checkpoint as store
    from voder import hub

    torch.manual_seed(0)
    system = hub.find(system_name)
    model = system.preset("tiny").model
    store.save(folder, system=system_name, config=model, state=system.build(model).state_dict())
    return folder


READERS = {reader.__name__: reader for reader in (audio, manifest, table, tokens, config, checkpoint, ecdc, pickles)}


def fuzz(name: str, inputs: int, seed: int, folder: Path) -> list[str]:
    """Run one reader; returns its findings, each once."""
    from voder.errors import VoderError

    rng = random.Random(f"{name} {seed}")
    cases = READERS[name](folder)
    originals = [file.read_bytes() for file, _ in cases]
    for _, read in cases:
        read()  # good files are read
    findings: dict[str, str] = {}
    started: list[str] = []

    def found(what: str, data: bytes, number: int) -> None:
        if what not in findings:
            findings[what] = _keep(folder, data, number)

    sys.addaudithook(lambda event, args: started.append(event) if event.startswith(PROGRAMS) else None)
    signal.signal(signal.SIGALRM, _too_long)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders written in C remark on every damaged byte
    refused, slowest, begun = 0, 0.0, time.monotonic()
    for number in range(inputs):
        index = rng.randrange(len(cases))
        file, read = cases[index]
        data = mutate(originals[index], originals, rng)
        file.write_bytes(data)
        before, peak = time.monotonic(), _peak_mb()
        signal.setitimer(signal.ITIMER_REAL, 5 * SECONDS)
        try:
            read()
        except VoderError as error:
            refused += 1
            if "\n" in str(error):
                found(f"a message of several lines: {str(error)[:80]!r}", data, number)
        except (Exception, Hang) as error:
            found(_place(error), data, number)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        spent = time.monotonic() - before
        slowest = max(slowest, spent)
        if spent > SECONDS:
            found(f"{file.suffix}: slow, {spent:.1f} s", data, number)
        if _peak_mb() - peak > MEGABYTES:
            found(f"{file.suffix}: {_peak_mb() - peak:.0f} MB at once", data, number)
        if started:
            found(f"started {started[0]}", data, number)
            started.clear()
        file.write_bytes(originals[index])
    minutes = (time.monotonic() - begun) / 60
    print(
        f"{name:<11} {inputs:>7,} inputs  {refused:>7,} refused  {len(findings)} findings  "
        f"{minutes:5.1f} min  slowest {slowest:.2f} s",
        flush=True,
    )
    return [f"{what}  [{where}]" for what, where in findings.items()]


def _too_long(*_: object) -> None:
    raise Hang


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _keep(folder: Path, data: bytes, number: int) -> str:
    file = folder / f"finding-{number}"
    file.write_bytes(data)
    return str(file)


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    line = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else ""
    return f"{type(error).__name__} at {line}: {str(error).splitlines()[0][:100] if str(error) else ''}"


def main() -> int:
    """Each reader in a process of its own, so that a crash is seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("readers", nargs="*", help=f"of {', '.join(READERS)} (default: all)")
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--here", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.here:
        findings = fuzz(args.readers[0], args.inputs, args.seed, Path(args.here))
        print("\n".join(f"  {finding}" for finding in findings), flush=True) if findings else None
        return 1 if findings else 0
    status = 0
    for name in args.readers or READERS:
        folder = Path(tempfile.mkdtemp(prefix=f"voder-fuzz-{name}-"))
        command = [sys.executable, __file__, name, "--inputs", str(args.inputs), "--seed", str(args.seed)]
        done = subprocess.run([*command, "--here", str(folder)], check=False)
        if done.returncode < 0:
            print(f"{name:<11} crashed with signal {-done.returncode}; the input lies in {folder}", flush=True)
        status |= done.returncode != 0
        if done.returncode == 0:
            shutil.rmtree(folder)
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
