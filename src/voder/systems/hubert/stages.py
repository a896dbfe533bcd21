"""How the family is pre-trained, as the papers and fairseq's configurations say; and what it is made of.

HuBERT's labels are clusters of frames: of MFCCs in the first iteration, of a layer of the encoder before in the next.
`voder cluster DATA --labels` makes them (`train.km`, `valid.km` beside the manifests, as fairseq has them).
"""

from collections.abc import Mapping

from voder.systems.hubert.config import HubertConfig
from voder.train.stages import Stage

_ADAM = (
    "loop.optimizer.name=adamw",
    "loop.optimizer.betas=[0.9, 0.98]",
    "loop.optimizer.weight_decay=0.01",
    "loop.schedule.shape=linear",
    "loop.schedule.final_ratio=0.0",
)
_HUBERT_MASK = ("task.mask_start=0.08", "task.mask_span=10")
_CROPS = (
    "every GPU reads 1.4 M samples a step there (large: 900 000); task.batch_items of task.crop_s make the same sum"
)
_SCALED = "the gradients of the convolutions are scaled by 0.1 there"
_LIBRISPEECH = "LibriSpeech, 960 h, without its texts; a folder of `voder prepare` with train.km and valid.km"
_LIBRILIGHT = "Libri-Light, 60 000 h; a folder of `voder prepare` with train.km and valid.km"
_CLUSTER_LOSSES = {"cross-entropy of masked frames' clusters": 1.0, "squared features": 10.0}


def _clusters(num_labels: int, label_dim: int) -> tuple[str, ...]:
    return (
        "model.head.objective=hubert",
        f"model.head.num_labels={num_labels}",
        f"model.head.label_dim={label_dim}",
        "task.feature_penalty=10.0",
        *_HUBERT_MASK,
    )


def _schedule(*, steps: int, rate: float, items: int) -> tuple[str, ...]:
    return (
        f"loop.steps={steps}",
        f"loop.optimizer.learning_rate={rate}",
        f"task.batch_items={items}",
        "task.crop_s=15.6",
        "loop.schedule.warmup_steps=32000",
        *_ADAM,
    )


STAGES: dict[str, Stage] = {
    "best-rq": Stage(
        summary="masked frames, labelled by a frozen random projection: nothing is clustered, quantised or contrasted",
        section="2202.01855, section 3",
        data="Libri-Light, 60 000 h; any folder of `voder prepare`, texts not needed",
        losses={"cross-entropy of masked frames' labels": 1.0},
        settings=("task.mask_start=0.01", "task.mask_span=40", "model.head.num_labels=8192", "model.head.label_dim=16"),
        task_settings=("model.head.objective=best_rq",),
        recalled=(
            "task.mask_start=0.01",
            "the paper's network is a conformer of 0.6 B; optimiser and schedule here are HuBERT base's",
        ),
    ),
    "iteration1": Stage(
        summary="masked prediction of clusters of MFCCs",
        section="2106.07447, sections II and IV; fairseq, hubert_base_librispeech",
        starts_from=("100 clusters of 39 MFCCs (13, with deltas), 100 labels a second",),
        data=_LIBRISPEECH,
        losses=_CLUSTER_LOSSES,
        settings=(
            *_schedule(steps=250_000, rate=5e-4, items=180),
            "loop.max_grad_norm=10.0",
            *_clusters(100, 256),
            "task.label_rate_hz=100.0",
        ),
        task_settings=("model.head.objective=hubert",),
        recalled=("loop.steps=250000", _CROPS, _SCALED),
    ),
    "iteration2": Stage(
        summary="masked prediction of clusters of the first iteration's layer 6",
        section="2106.07447, sections II and IV; fairseq, hubert_base_librispeech",
        starts_from=("500 clusters of layer 6 of stage iteration1, 50 labels a second; weights are random",),
        data=_LIBRISPEECH,
        losses=_CLUSTER_LOSSES,
        settings=(
            *_schedule(steps=400_000, rate=5e-4, items=180),
            "loop.max_grad_norm=10.0",
            *_clusters(500, 256),
            "task.label_rate_hz=50.0",
        ),
        task_settings=("model.head.objective=hubert",),
        recalled=(_CROPS, _SCALED),
    ),
    "large": Stage(
        summary="masked prediction of clusters of layer 9 of the base model, for the large and X-large networks",
        section="2106.07447, section IV; fairseq, hubert_large_librivox",
        starts_from=("500 clusters of layer 9 of stage iteration2, 50 labels a second; weights are random",),
        data=_LIBRILIGHT,
        losses=_CLUSTER_LOSSES,
        settings=(
            *_schedule(steps=400_000, rate=1.5e-3, items=461),
            "loop.max_grad_norm=1.0",
            *_clusters(500, 768),
            "task.label_rate_hz=50.0",
        ),
        task_settings=("model.head.objective=hubert",),
        recalled=("model.head.label_dim=768", "X-large trains with its own learning rate", _CROPS),
    ),
    "wav2vec2": Stage(
        summary="telling a masked frame's quantised features from those of 100 others",
        section="2006.11477, section 3; fairseq, wav2vec2_base_librispeech",
        data="LibriSpeech, 960 h, or Libri-Light; a folder of `voder prepare`",
        losses={"contrast": 1.0, "diversity of codes": 0.1, "squared features": 10.0},
        settings=(
            *_schedule(steps=400_000, rate=5e-4, items=358),
            "task.feature_penalty=10.0",
            "model.head.num_labels=320",
            "model.head.label_dim=256",
            "task.mask_start=0.065",
            "task.mask_span=10",
        ),
        task_settings=("model.head.objective=wav2vec2",),
        recalled=(_CROPS, _SCALED, "gradients are not clipped there"),
    ),
    "data2vec": Stage(
        summary="regressing what a moving average of the network makes of the unmasked recording",
        section="2202.03555, section 3; fairseq, audio/pretraining/base_librispeech",
        starts_from=("a teacher that follows the weights with a decay from 0.999 to 0.9999 over 30 000 steps",),
        data="LibriSpeech, 960 h; a folder of `voder prepare`",
        losses={"distance to the mean of the teacher's upper 8 layers": 1.0},
        settings=(*_schedule(steps=400_000, rate=5e-4, items=243), "task.mask_start=0.065", "task.mask_span=10"),
        recalled=(
            "loop.steps=400000",
            "loop.optimizer.learning_rate=5e-4",
            "16 GPUs read 3.8 M samples a step; the learning rate is held and falls in three phases there",
        ),
        runs=False,
    ),
    "fine-tune": Stage(
        summary="a linear layer to letters on top, trained with CTC on 10 hours of transcripts",
        section="2106.07447, section IV-C; fairseq, hubert/finetune/base_10h",
        starts_from=("published weights, or stage iteration2",),
        data="10 h of Libri-light with texts; fairseq's .tsv and .ltr",
        losses={"CTC": 1.0},
        settings=(
            "loop.steps=25000",
            "loop.optimizer.learning_rate=2e-5",
            "loop.optimizer.name=adam",
            "loop.optimizer.betas=[0.9, 0.98]",
            "loop.schedule.warmup_steps=8000",
            "task.mask_start=0.075",
            "task.mask_span=10",
        ),
        recalled=(
            "loop.schedule.warmup_steps=8000",
            "the encoder stays frozen for the first 10 000 steps, spans of 64 channels are masked with a chance of 0.5",
        ),
        runs=False,
    ),
}


def anatomy(config: HubertConfig) -> Mapping[str, str]:
    """The one part."""
    net = config.network
    units = f"; layer {config.layer or net.num_layers} to {config.num_units} units" if config.num_units else ""
    front = "mel bands, stacked in twos" if config.family == "w2v_bert" else f"{len(net.conv_channels)} convolutions"
    kind = "conformer" if config.family == "w2v_bert" else "transformer"
    return {
        "encoder": (
            f"{config.sample_rate_hz} Hz, {front}, {kind} {net.num_layers} x {net.dim} with {net.num_heads} heads, "
            f"50 vectors/s{units}"
        )
    }
