import argparse
import gzip
import io
import pickle
import sys
import zipfile
from types import ModuleType

import numpy as np
import pytest
import torch

from voder.errors import CheckpointError
from voder.systems.hubert.unpickle import read_centers, read_fairseq

CENTERS = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)


@pytest.fixture
def foreign(monkeypatch):
    """Classes of packages that are not installed, as they were when the files were written."""

    def make(module, name):
        parts = module.split(".")
        for count in range(1, len(parts) + 1):
            path = ".".join(parts[:count])
            monkeypatch.setitem(sys.modules, path, sys.modules.get(path) or ModuleType(path))
        made = type(name, (), {"__module__": module})
        setattr(sys.modules[module], name, made)
        return made

    return make


def kmeans_object(foreign, centers):
    model = foreign("sklearn.cluster._kmeans", "MiniBatchKMeans")()
    model.n_clusters, model.random_state_ = len(centers), np.float64(3.5)
    model.cluster_centers_, model.counts_ = centers, np.arange(len(centers))
    return model


def joblib_bytes(model, wrapper, protocol):
    """What joblib writes: a marker object per array, and the array's bytes straight after it."""
    file = io.BytesIO()

    class Pickler(pickle._Pickler):
        def save(self, thing, save_persistent_id=True):
            if type(thing) is not np.ndarray:
                return super().save(thing, save_persistent_id)
            marker = wrapper()
            fortran = thing.flags.f_contiguous and not thing.flags.c_contiguous
            marker.subclass, marker.shape, marker.order = np.ndarray, thing.shape, "F" if fortran else "C"
            marker.dtype, marker.allow_mmap, marker.numpy_array_alignment_bytes = thing.dtype, True, 16
            super().save(marker, save_persistent_id)
            if self.proto >= 4:
                self.framer.commit_frame(force=True)
            gap = 16 - (file.tell() + 1) % 16
            file.write(bytes([gap]) + b"\xff" * gap + thing.tobytes("F" if fortran else "C"))
            return None

    Pickler(file, protocol=protocol).dump(model)
    return file.getvalue()


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("centers", [CENTERS, np.asfortranarray(CENTERS), CENTERS.astype(np.float64)])
def test_joblibs_file_of_a_scikit_learn_object_is_read(tmp_path, foreign, protocol, centers):
    wrapper = foreign("joblib.numpy_pickle", "NumpyArrayWrapper")
    (tmp_path / "km.bin").write_bytes(joblib_bytes(kmeans_object(foreign, centers), wrapper, protocol))
    read = read_centers(tmp_path / "km.bin")
    assert read.dtype == np.float32
    assert np.array_equal(read, CENTERS)


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_plain_pickle_is_read_packed_or_not(tmp_path, foreign, protocol):
    data = pickle.dumps(kmeans_object(foreign, CENTERS), protocol=protocol)
    (tmp_path / "km.pkl").write_bytes(data)
    (tmp_path / "km.pkl.gz").write_bytes(gzip.compress(data))
    assert np.array_equal(read_centers(tmp_path / "km.pkl"), CENTERS)
    assert np.array_equal(read_centers(tmp_path / "km.pkl.gz"), CENTERS)


def test_the_fixtures_npz_is_read():
    from pathlib import Path

    folder = Path(__file__).parents[2] / "fixtures" / "speechgpt"
    assert read_centers(folder / "mhubert_a_centers.npz").shape == (20, 32)


class Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return exec, (f"open({str(self.marker)!r}, 'w').close()",)


def test_nothing_in_a_file_is_run(tmp_path):
    marker = tmp_path / "ran"
    (tmp_path / "km.bin").write_bytes(pickle.dumps({"cluster_centers_": CENTERS, "x": Evil(marker)}))
    assert np.array_equal(read_centers(tmp_path / "km.bin"), CENTERS)
    (tmp_path / "only.bin").write_bytes(pickle.dumps(Evil(marker)))
    with pytest.raises(CheckpointError, match="cluster_centers_"):
        read_centers(tmp_path / "only.bin")
    torch.save({"model": {"w": torch.ones(2)}, "cfg": Evil(marker)}, tmp_path / "m.pt")
    assert read_fairseq(tmp_path / "m.pt")["w"].tolist() == [1.0, 1.0]
    copied = io.BytesIO()
    pickle.Pickler(copied, protocol=2).dump([Evil(marker)])
    (tmp_path / "list.bin").write_bytes(copied.getvalue())
    with pytest.raises(CheckpointError):
        read_centers(tmp_path / "list.bin")
    assert not marker.exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"\x80\x04", b"rubbish", pickle.dumps([1, 2]), pickle.dumps({"cluster_centers_": np.array([{}, {}])})],
)
def test_damaged_centres_are_refused_by_name(tmp_path, content):
    (tmp_path / "km.bin").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"km\.bin"):
        read_centers(tmp_path / "km.bin")


def test_a_dtype_whose_state_would_crash_numpy_is_only_looked_at(tmp_path):
    content = pickle.dumps({"cluster_centers_": np.ones((4, 3), np.float32)}, protocol=4)
    damaged = content.replace(b"<\x94NNNJ", b"<\x94NJ")
    assert damaged != content
    (tmp_path / "km.bin").write_bytes(damaged)  # numpy's own __setstate__ reads beyond the tuple
    assert read_centers(tmp_path / "km.bin").tolist() == [[1.0] * 3] * 4
    big = pickle.dumps({"cluster_centers_": np.ones((2, 2), ">f4")})
    (tmp_path / "km.bin").write_bytes(big)
    assert read_centers(tmp_path / "km.bin").tolist() == [[1.0] * 2] * 2


def test_a_member_of_an_archive_that_is_no_array_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "km.npz", "w") as archive:
        archive.writestr("arr_0", b"not an array")  # numpy gives the bytes of what it does not know
    with pytest.raises(CheckpointError, match="holds no cluster"):
        read_centers(tmp_path / "km.npz")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"none\.bin cannot be read"):
        read_centers(tmp_path / "none.bin")
    with pytest.raises(CheckpointError, match=r"none\.pt cannot be read"):
        read_fairseq(tmp_path / "none.pt")


@pytest.mark.parametrize("old_format", [False, True])
def test_a_fairseq_file_gives_its_weights_and_nothing_else(tmp_path, foreign, old_format):
    node = foreign("omegaconf.dictconfig", "DictConfig")()
    node._content = {"encoder_layers": 12}
    record = {
        "args": argparse.Namespace(arch="hubert"),
        "cfg": node,
        "model": {"w": torch.arange(4.0).half(), "n": torch.tensor(3)},
        "optimizer_history": [{"criterion_name": "C"}],
    }
    torch.save(record, tmp_path / "m.pt", _use_new_zipfile_serialization=not old_format)
    assert zipfile.is_zipfile(tmp_path / "m.pt") is not old_format
    state = read_fairseq(tmp_path / "m.pt")
    assert set(state) == {"w", "n"}
    assert state["w"].dtype == torch.float32
    assert state["w"].tolist() == [0.0, 1.0, 2.0, 3.0]


def test_a_file_without_weights_is_refused(tmp_path):
    torch.save({"model": {}}, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match="holds no weights"):
        read_fairseq(tmp_path / "m.pt")
    (tmp_path / "m.pt").write_bytes(b"no torch file")
    with pytest.raises(CheckpointError, match="damaged"):
        read_fairseq(tmp_path / "m.pt")
