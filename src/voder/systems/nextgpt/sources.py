"""Where the authors' file and ImageBind lie on the Hub; `convert.PUBLISHED` adds what becomes of them."""

from voder.published import HubFile, HubSource, hub_source

LEGACY_FILE, IMAGEBIND_FILE = "pytorch_model.pt", "imagebind_huge.pth"
SOURCES = (
    hub_source("ChocoWu/nextgpt_7b_tiva_v0", "f28bea33714c810ef6cb9b9e440edcddb93297a4", {LEGACY_FILE: 792_000_000}),
    # Meta's own place is dl.fbaipublicfiles.com/imagebind; this is a copy beside another model, told by its sum
    HubSource(
        repository="DAMO-NLP-SG/Video-LLaMA-2-7B-Finetuned",
        revision="9d9519ffac4e48ef6510e829b1a1a643771a4dd0",
        files=(
            HubFile(IMAGEBIND_FILE, 4_803_584_173, "d6f6c22bedcc90708448d5d2fbb7b2db9c73f505dc89bd0b2e09b23af1b62157"),
        ),
    ),
)
