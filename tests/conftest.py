import os
import warnings

import pytest
import torch

os.environ["OMP_NUM_THREADS"] = "1"  # several threads on few busy cores wait for each other
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def same_seed(monkeypatch):
    """Each test starts from the same generators, and leaves no seed behind."""
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def quiet_lightning():
    """Lightning's notices on every run, as the command line silences them too."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated")
        yield
