"""Published weights: `pretrained.pt` of the package resemblyzer, `{step, model_state, optimizer_state}`, and back."""

from pathlib import Path

import torch
from torch import Tensor

from voder import checkpoint
from voder.config import from_dict
from voder.errors import CheckpointError
from voder.files import atomic_path
from voder.interop import Coverage, Marks, RenameTable, Rule, export, load_foreign, read_sections
from voder.published import Published, WheelFile, WheelMember
from voder.systems.ge2e.config import Ge2eConfig
from voder.systems.ge2e.model import Ge2e

LAYOUTS = {"resemblyzer": "a .pt file that resemblyzer loads"}
MARKS = Marks(names=("similarity_weight",))
OFFICIAL = RenameTable(
    Rule("lstm.{w}", "lstm.{w}"),
    Rule("linear.{w}", "linear.{w}"),
    Rule("similarity_weight", "similarity_weight"),
    Rule("similarity_bias", "similarity_bias"),
)


def import_checkpoint(source: Path, output: Path) -> Coverage:
    """Convert a published file (or a folder with `pretrained.pt`) into a checkpoint folder of ours.

    Raises:
        CheckpointError: missing, damaged, or of another network; all names are given.
    """
    file = source / "pretrained.pt" if source.is_dir() else source
    section = read_sections(file).get("model_state")
    if not isinstance(section, dict) or not all(isinstance(value, Tensor) for value in section.values()):
        raise CheckpointError(f"{file} is no speaker encoder: it must hold a table of tensors under 'model_state'")
    state = {str(name): value.float() for name, value in section.items()}
    model = Ge2e(_sizes(state, file))
    coverage = load_foreign(model, state, OFFICIAL, str(file))
    provenance = {"converted_from": file.name, "layout": "resemblyzer", "licence": "Apache-2.0"}
    checkpoint.save(output, system="ge2e", config=model.config, state=model.state_dict(), provenance=provenance)
    return coverage


def _sizes(state: dict[str, Tensor], file: Path) -> Ge2eConfig:
    try:
        gates, num_bands = state["lstm.weight_ih_l0"].shape
        embedding_width, width = state["linear.weight"].shape
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{file} lacks or misshapes what a speaker encoder has ({error})") from error
    if gates != 4 * width:
        raise CheckpointError(f"{file} has {gates} gates for {width} cells; a plain LSTM has four a cell")
    layers = sum(name.startswith("lstm.weight_ih_l") for name in state)
    return Ge2eConfig(num_bands=num_bands, width=width, num_layers=layers, embedding_width=embedding_width)


def export_checkpoint(folder: Path, output: Path, layout: str) -> list[str]:
    """Write a checkpoint of ours as a `.pt` file that resemblyzer loads.

    Raises:
        CheckpointError: not a checkpoint of this system.
    """
    found = checkpoint.read_of(folder, "ge2e")
    from_dict(Ge2eConfig, found.config, where=str(found.folder / checkpoint.CONFIG_FILE))
    content = {"step": 0, "model_state": export(checkpoint.load_state(found.folder), OFFICIAL)}
    with atomic_path(output) as temporary:
        torch.save(content, temporary)
    return []


PUBLISHED = (
    Published(
        name="ge2e",
        system="ge2e",
        what="whose voice it is: a speaker encoder of English, 1.4 M parameters",
        licence="Apache-2.0",
        origin="resemblyzer's pretrained.pt (2019), trained on LibriSpeech-other, VoxCeleb1 and VoxCeleb2",
        convert=import_checkpoint,
        wheels=(
            WheelFile(
                name="pretrained.pt",
                num_bytes=17_090_379,
                sha256="39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e",
                members=(WheelMember("resemblyzer", "0.1.4", "resemblyzer/pretrained.pt"),),
            ),
        ),
    ),
)
