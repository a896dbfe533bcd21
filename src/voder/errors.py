"""What can go wrong, as one small tree.

    VoderError                 anything a user can mend; the command line prints it as one sentence and exits with 2
    ├── InputError             something given is not usable
    │   ├── AudioError         a recording
    │   ├── TextError          a text
    │   ├── ManifestError      a list of recordings
    │   └── TokensError        token shards
    ├── ConfigError            a setting
    ├── CheckpointError        a checkpoint folder or weight file
    │   └── FittedPartMismatch a part that was fitted on another part (tokens of another codec)
    ├── ResourceError          memory, disk, permission, device
    └── TrainingError          a run that cannot go on (NaN loss)

Messages are one sentence each: what, the value given, what is allowed, what to change. `ValueError` and `assert`
are kept for mistakes in code that calls voder.
"""


class VoderError(Exception):
    """Anything a user can mend, said on one line, even where a library's reason in it has several."""

    def __str__(self) -> str:
        return " ".join(super().__str__().splitlines())


class InputError(VoderError):
    """Something given is not usable."""


class AudioError(InputError):
    """A recording cannot be used."""


class TextError(InputError):
    """A text cannot be used."""


class ManifestError(InputError):
    """A manifest cannot be used."""


class TokensError(InputError):
    """Token shards cannot be used."""


class ConfigError(VoderError):
    """A setting is unknown or out of range."""


class CheckpointError(VoderError):
    """A checkpoint cannot be read or does not fit."""


class FittedPartMismatch(CheckpointError):
    """A part was fitted on another part than the one given."""


class ResourceError(VoderError):
    """Memory, disk, permission or device is missing."""


class TrainingError(VoderError):
    """A training run cannot go on."""
