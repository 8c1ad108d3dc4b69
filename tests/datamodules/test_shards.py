"""Images and captions in tar files: made from a table, streamed, resumed."""

import io
import json
import tarfile
from pathlib import Path

import pytest
import torch

from datamodules import ImageTextShards
from datamodules.byte_pairs import BytePairs, train
from datamodules.shards import ShardBatches, ShardLoader, Shards, find_shards, write_shards
from tests.datamodules.test_image_text import fit, pictures, table


@pytest.fixture
def shards(tmp_path):
    """12 images in 4 shards, the first with two captions."""
    names = pictures(tmp_path / "pictures", 12)
    rows = [(names[0], "zero again"), *((name, f"grey {i}") for i, name in enumerate(names))]
    assert write_shards(table(tmp_path / "train.csv", rows), tmp_path / "shards", images_per_shard=3) == 4
    return tmp_path


def loader(folder, workers=0, n=12, rank=0, world=1, batch_size=2, seed=0, shuffle=4):
    tokenizer = BytePairs(train([f"grey {i}" for i in range(12)], 300))
    urls, found = find_shards(str(folder / "shards"), None)
    assert found == n
    data = Shards(urls, n, tokenizer, 20, 8, 3, batch_size, max(1, workers), shuffle, seed, rank, world)
    return ShardLoader(data, ShardBatches(n, batch_size, seed, rank, world), workers)


def seen(batches, tokenizer):
    """Grey value and caption of each sample."""
    found = []
    for batch in batches:
        for image, ids in zip(batch.image, batch.tokens.tolist(), strict=True):
            text = tokenizer.decode(ids[1 : ids.index(299)]).strip()
            found.append((int(image.unique()) // 20, text))
    return found


def test_every_image_comes_once_with_its_caption_in_another_order_by_epoch(shards):
    ours = loader(shards)
    orders = []
    for epoch in range(2):
        ours.sampler.set_epoch(epoch)
        found = seen(ours, ours.dataset.tokenizer.tokenizer)
        assert sorted(i for i, _ in found) == list(range(12))
        assert all(text == f"grey {i}" or (i, text) == (0, "zero again") for i, text in found)
        orders.append(found)
    assert orders[0] != orders[1]
    batch = next(iter(ours))
    assert batch.label.tolist() == [-1, -1]
    assert len(ours) == 6


def test_processes_and_workers_read_different_shards(shards):
    found = []
    for rank in range(2):
        ours = loader(shards, workers=2, rank=rank, world=2, batch_size=3)
        found += seen(ours, ours.dataset.tokenizer.tokenizer)
        ours.close()
    assert sorted(i for i, _ in found) == list(range(12))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_goes_on_where_it_was(shards, workers):
    whole = loader(shards, workers)
    whole.sampler.set_epoch(3)
    batches = list(whole)
    whole.close()
    for done in (1, 3):
        cut = loader(shards, workers)
        cut.load_state_dict({**whole.state_dict(), "epoch": 3, "batches": done})
        rest = list(cut)
        cut.close()
        assert len(rest) == 6 - done
        for a, b in zip(batches[done:], rest, strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a[:4], b[:4], strict=True))
    other = loader(shards, workers, shuffle=2)
    with pytest.raises(ValueError, match="was taken inside an epoch"):
        other.load_state_dict({**whole.state_dict(), "epoch": 3, "batches": 2})


def rewrite(path: Path, change):
    """Rewrite a shard; `change` maps name and content to a content, or None to leave a file out."""
    with tarfile.open(path) as tar:
        files = {m.name: tar.extractfile(m).read() for m in tar.getmembers()}
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            if (new := change(name, content)) is not None:
                info = tarfile.TarInfo(name)
                info.size = len(new)
                tar.addfile(info, io.BytesIO(new))


def test_a_corrupt_sample_is_skipped_and_counted_and_the_batch_stays_full(shards):
    first = sorted((shards / "shards").glob("*.tar"))[0]
    lost = []

    def spoil(name, content):
        if name.endswith(".png") and not lost:
            lost.append(name)
            return content[:20]
        return content

    rewrite(first, spoil)
    ours = loader(shards)
    batches = list(ours)
    assert [len(b.image) for b in batches] == [2] * 6
    assert len({i for i, _ in seen(batches, ours.dataset.tokenizer.tokenizer)}) == 11
    assert ours.dataset.unreadable_samples.tolist() == [1]
    cut = loader(shards)
    cut.load_state_dict({**ours.state_dict(), "epoch": 0, "batches": 2})
    for a, b in zip(batches[2:], cut, strict=True):
        assert torch.equal(a.image, b.image)
        assert torch.equal(a.index, b.index)


def test_a_sample_without_a_caption_and_a_shard_cut_off_are_counted(shards):
    paths = sorted((shards / "shards").glob("*.tar"))
    rewrite(paths[0], lambda name, content: b" \n" if name.endswith("txt") else content)
    paths[1].write_bytes(paths[1].read_bytes()[:700])
    ours = loader(shards)
    assert [len(b.image) for b in ours] == [2] * 6
    assert ours.dataset.unreadable_samples.item() >= 4


def test_nothing_readable_is_an_error(shards):
    for path in (shards / "shards").glob("*.tar"):
        rewrite(path, lambda name, content: b"x" if name.endswith("png") else content)
    with pytest.raises(ValueError, match="of 2 samples only 0 can be read, and none of 20 behind them"):
        next(iter(loader(shards)))


def test_it_trains_and_says_what_was_skipped(shards):
    first = sorted((shards / "shards").glob("*.tar"))[0]
    rewrite(first, lambda name, content: content[:20] if name.endswith("png") else content)
    val = table(shards / "val.csv", [("pictures/1.png", "grey 1")])
    data = ImageTextShards(
        str(shards / "shards"), val=val, image_size=8, batch_size=2, num_workers=1, vocab_size=300, max_tokens=20
    )
    with pytest.warns(UserWarning, match="3 samples could not be read and the next ones stood in"):
        keep = fit(data, shards)
    assert len(keep.batches) == 6
    assert keep.batches[0][1].views[0].shape == (2, 3, 8, 8)
    assert [loader for loader, _ in keep.evaluated] == [0, 1]
    assert data.captions(data._ready().val) == [["grey 1"]]


def test_errors_name_the_way_out(shards):
    folder = shards / "shards"
    with pytest.raises(FileExistsError, match="holds shards"):
        write_shards(shards / "train.csv", folder)
    with pytest.raises(ValueError, match="images_per_shard must be at least 1, got 0"):
        write_shards(shards / "train.csv", shards / "more", 0)
    (shards / "pictures" / "1").write_bytes((shards / "pictures" / "1.png").read_bytes())
    with pytest.raises(ValueError, match=r"pictures/1 does not end in \.jpg or the like"):
        write_shards(table(shards / "bare.csv", [("pictures/1", "one")]), shards / "more")
    with pytest.raises(FileNotFoundError, match=r"there is no \.tar in"):
        ImageTextShards(str(shards / "pictures"))
    with pytest.raises(FileNotFoundError, match=r"1 of 5 shards are not there, such as .*00004\.tar"):
        ImageTextShards(str(folder / "{00000..00004}.tar"))
    with pytest.raises(ValueError, match=r"4 shard\(s\) for 1 process\(es\) with 5 reader\(s\) each: make more shards"):
        loader(shards, workers=5)
    (folder / "sizes.json").write_text(json.dumps({"00000.tar": 3}))
    with pytest.raises(ValueError, match=r"does not know .*00001\.tar: give num_samples"):
        ImageTextShards(str(folder))
    (folder / "sizes.json").unlink()
    with pytest.raises(
        ValueError, match=r"no .*sizes\.json that says how many samples the shards hold: give num_samples"
    ):
        ImageTextShards(str(folder))
    assert ImageTextShards(str(folder / "{00000..00003}.tar"), num_samples=12).samples == 12
