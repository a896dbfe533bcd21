"""Build src/voder/demo/digits.zip from a copy of the Free Spoken Digit Dataset.

    python scripts/bundle_digits.py FSDD_FOLDER --new-speaker NAME

FSDD_FOLDER holds manifest.jsonl and audio/. Recordings are kept lossless (FLAC) where errors are counted on them
(validation, test and the new speaker's test) and Opus-coded at about 38 kb/s where they are only trained on, so
that the whole fits 6 MB. The bundle is deterministic: the same folder gives the same bytes.
"""

import argparse
import io
import json
import zipfile
from pathlib import Path

import soundfile

CREDIT = """Free Spoken Digit Dataset (FSDD), by Zohar Jackson and contributors
https://github.com/Jakobovski/free-spoken-digit-dataset, doi 10.5281/zenodo.1342401
Licence: Creative Commons Attribution-ShareAlike 4.0 (CC BY-SA 4.0), https://creativecommons.org/licenses/by-sa/4.0/
Changes: a subset of the recordings; training clips re-encoded from PCM to Ogg Opus, the others to FLAC.
This archive is under the same licence.
"""
VALID_TAKES = (6, 7)
NEW_SPEAKER_TAKES = 24
"""Training takes per digit of the new speaker: fine-tuning has little data, as a user would."""


def split_of(record: dict, new_speaker: str) -> str | None:
    """train, valid or test; None leaves the recording out."""
    take = int(record["id"].rsplit("_", 1)[1])
    if record["split"] == "test":
        return "test"
    if take in VALID_TAKES:
        return "valid"
    if record["speaker"] == new_speaker and take >= 8 + NEW_SPEAKER_TAKES:
        return None
    return "train"


def encode(file: Path, split: str) -> tuple[bytes, str]:
    """The clip's bytes and suffix: Opus for training, FLAC otherwise."""
    samples, rate = soundfile.read(file, dtype="int16")
    buffer = io.BytesIO()
    if split == "train":
        soundfile.write(buffer, samples, rate, format="OGG", subtype="OPUS")
        return buffer.getvalue(), "opus"
    soundfile.write(buffer, samples, rate, format="FLAC", subtype="PCM_16", compression_level=1.0)
    return buffer.getvalue(), "flac"


def main() -> None:
    """Write the archive."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--new-speaker", required=True)
    parser.add_argument("-o", "--output", type=Path, default=Path("src/voder/demo/digits.zip"))
    arguments = parser.parse_args()
    records = [json.loads(line) for line in (arguments.folder / "manifest.jsonl").read_text().splitlines()]
    lines: dict[str, list[str]] = {"known": [], "new": []}
    everyone: list[str] = []
    with zipfile.ZipFile(arguments.output, "w", zipfile.ZIP_STORED) as archive:

        def add(name: str, content: bytes) -> None:
            kind = zipfile.ZIP_DEFLATED if name.endswith((".jsonl", ".txt")) else zipfile.ZIP_STORED
            archive.writestr(zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), content, kind, 9)

        for record in sorted(records, key=lambda r: r["id"]):
            split = split_of(record, arguments.new_speaker)
            if split is None:
                continue
            content, suffix = encode(arguments.folder / record["audio"], split)
            folder = "new" if record["speaker"] == arguments.new_speaker else "known"
            name = f"audio/{record['id']}.{suffix}"
            add(f"{folder}/{name}", content)
            entry = {
                "audio": name,
                "duration": record["duration"],
                "text": record["text"],
                "speaker": record["speaker"].removeprefix("fsdd_"),
                "language": "en",
                "split": split,
                "licence": "CC-BY-SA-4.0",
                "source": "Free Spoken Digit Dataset",
            }
            lines[folder].append(json.dumps(entry))
            everyone.append(json.dumps(entry | {"audio": f"{folder}/{name}"}))
        for folder, entries in lines.items():
            add(f"{folder}/manifest.jsonl", ("\n".join(entries) + "\n").encode())
        add("everyone.jsonl", ("\n".join(everyone) + "\n").encode())
        add("CREDIT.txt", CREDIT.encode())
    size = arguments.output.stat().st_size
    print(f"{arguments.output}: {size / 1e6:.2f} MB, {', '.join(f'{k} {len(v)}' for k, v in lines.items())}")


if __name__ == "__main__":
    main()
