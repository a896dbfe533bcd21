"""Copy the best checkpoint of a run into src/voder/bundled, in half precision, with its curves and its run.json.

    python scripts/bundle_checkpoint.py runs/codec spectral/demo

Training state, samples and TensorBoard files stay behind. A codec is bundled before recordings are tokenised with
it, so that a voice is trained on the codes of exactly the weights that ship.
"""

import argparse
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from voder import checkpoint
from voder.files import folder_written_atomically
from voder.hub import BUNDLED


def halve(folder: Path) -> None:
    """Store the float32 weights of a checkpoint folder as float16."""
    file = folder / checkpoint.WEIGHTS_FILE
    state = load_file(file)
    save_file({k: v.half() if v.dtype == torch.float32 else v for k, v in state.items()}, file)


def main() -> None:
    """Copy, halve, and keep the log."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("name", help="system/preset")
    parser.add_argument("--into", type=Path, default=BUNDLED)
    arguments = parser.parse_args()
    target = arguments.into / arguments.name
    target.parent.mkdir(parents=True, exist_ok=True)
    best = checkpoint.resolve(arguments.run)
    card = target / "README.md"
    kept = card.read_text(encoding="utf-8") if card.is_file() else None
    with folder_written_atomically(target) as temporary:
        for path in best.iterdir():
            if path.name != "companions":
                (shutil.copytree if path.is_dir() else shutil.copy2)(path, temporary / path.name)
        halve(temporary)
        for name in ("run.json", "metrics.jsonl", "config.yaml"):
            shutil.copy2(arguments.run / name, temporary / name)
        if kept is not None:
            (temporary / "README.md").write_text(kept, encoding="utf-8")
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    print(f"{target}: {size / 1e6:.2f} MB, from {best.name}")


if __name__ == "__main__":
    main()
