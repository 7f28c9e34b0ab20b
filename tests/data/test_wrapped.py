"""Plain torch data: any Dataset or DataLoader becomes Data as it is, and what is none says where."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
)

from conviction.data.batches import batches, count_batches
from conviction.data.examples import Expected, as_picture
from conviction.data.records import Batch, Data, Preprocessing, Split
from conviction.data.wrapped import from_loaders
from conviction.errors import DataError

COUNT = 40


def make_pictures(count: int = COUNT) -> Tensor:
    """Colour pictures whose first pixel is their number."""
    pictures = torch.randint(0, 256, (count, 3, 8, 6), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    pictures[:, 0, 0, 0] = torch.arange(count)
    return pictures


class Photos(Dataset[Any]):
    """A map-style dataset that gives its pictures in a form of choice; some items can be spoilt."""

    def __init__(self, form: str = "tensor", count: int = COUNT, spoilt: dict[int, Any] | None = None) -> None:
        self.form, self.spoilt, self.pictures = form, spoilt or {}, make_pictures(count)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Any:
        if index >= len(self):
            raise IndexError(index)
        if index in self.spoilt:
            if isinstance(self.spoilt[index], Exception):
                raise self.spoilt[index]
            return self.spoilt[index]
        rows = self.pictures[index].numpy()
        forms = {
            "tensor": lambda: self.pictures[index],
            "float": lambda: self.pictures[index].double() / 255,
            "array": lambda: np.moveaxis(rows, 0, 2),
            "planes": lambda: rows,
            "pil": lambda: Image.fromarray(np.moveaxis(rows, 0, 2)),
            "grey": lambda: Image.fromarray(rows[0]),
        }
        return forms[self.form](), index % 4


class Named(Photos):
    classes = ("ant", "bee", "cat", "dog")


class Stream(IterableDataset[Any]):
    def __init__(self, count: int = COUNT) -> None:
        self.count = count

    def __iter__(self) -> Iterator[Any]:
        return iter([(picture, index % 4) for index, picture in enumerate(make_pictures(self.count))])


def read(split: Split, **changes: Any) -> list[Batch]:
    return list(batches(split, 16, **({"seed": 0, "epoch": 0, "shuffled": False} | changes)))


def check_contents(split: Split, expected: Tensor) -> None:
    found = read(split)
    assert torch.equal(torch.cat([batch.pictures for batch in found]), expected)
    assert torch.cat([batch.labels for batch in found]).tolist() == [index % 4 for index in range(len(expected))]
    assert torch.cat([batch.indices for batch in found]).tolist() == list(range(len(expected)))


@pytest.mark.parametrize("form", ["tensor", "array", "planes", "pil"])
def test_datasets_of_every_form_give_their_pictures(form: str) -> None:
    data = from_loaders(Photos(form), Photos(form, 12), Photos(form, 8))
    assert data.image == (3, 8, 6)
    assert data.num_classes == 4
    for split, count in ((data.train, COUNT), (data.valid, 12), (data.test, 8)):
        assert split is not None
        assert len(split) == count
        check_contents(split, make_pictures()[:count] if count == COUNT else make_pictures(count))


def test_grey_and_float_pictures_keep_channels_and_scale() -> None:
    grey = from_loaders(Photos("grey"), Photos("grey"))
    assert grey.image == (1, 8, 6)
    floats = from_loaders(Photos("float"), Photos("float"))
    assert (grey.preprocessing.scale, floats.preprocessing.scale) == ("uint8", "own")
    assert floats.resized(20).preprocessing.scale == "own"
    images = floats.preprocessing.apply(read(floats.train)[0].pictures)
    assert images.dtype == torch.float32
    whole = torch.cat([floats.preprocessing.apply(batch.pictures) for batch in read(floats.train)])
    torch.testing.assert_close(whole.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(whole.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-4, rtol=0)


def test_a_dataset_is_shuffled_and_read_by_workers_alike() -> None:
    data = from_loaders(Named(), Named())
    alone = read(data.train, shuffled=True)
    helped = read(data.train, shuffled=True, workers=2)
    assert [batch.indices.tolist() for batch in alone] == [batch.indices.tolist() for batch in helped]
    assert alone[0].indices.tolist() != list(range(16))
    for left, right in zip(alone, helped, strict=True):
        assert torch.equal(left.pictures, right.pictures)
        assert left.pictures[:, 0, 0, 0].tolist() == left.indices.tolist()
        assert torch.equal(left.labels, right.labels)


def test_a_loader_keeps_its_own_batches() -> None:
    loader = DataLoader(Photos(), batch_size=7)
    data = from_loaders(loader, loader)
    assert [len(batch) for batch in read(data.train, shuffled=True)] == [7, 7, 7, 7, 7, 5]
    assert count_batches(data.train, 16) == 6
    assert len(data.train) == COUNT
    check_contents(data.train, make_pictures())
    assert [batch.indices.tolist()[0] for batch in read(data.train, start=4)] == [28, 35]
    fetched = data.train.source.fetch(torch.tensor([39, 0, 5]))
    assert fetched[:, 0, 0, 0].tolist() == [39, 0, 5]
    dropping = DataLoader(Photos(), batch_size=7, drop_last=True)
    assert len(from_loaders(dropping, loader).train) == 35
    assert count_batches(from_loaders(dropping, loader).train, 16) == 5


def test_a_loader_over_a_stream_is_counted() -> None:
    data = from_loaders(DataLoader(Stream(), batch_size=9), DataLoader(Stream(10), batch_size=None, collate_fn=pair_up))
    assert len(data.train) == COUNT
    assert count_batches(data.train, 16) == 5
    assert data.num_classes == 4
    assert len(data.valid) == 10
    check_contents(data.train, make_pictures())


def pair_up(item: tuple[Tensor, int]) -> tuple[Tensor, Tensor]:
    return item[0][None], torch.tensor([item[1]])


def test_plain_tensors_are_held() -> None:
    labels = torch.arange(COUNT) % 4
    data = from_loaders(TensorDataset(make_pictures(), labels), TensorDataset(make_pictures(), labels))
    assert not getattr(data.train.source, "streams", False)
    check_contents(data.train, make_pictures())
    grey = TensorDataset(torch.rand(10, 5, 5), torch.arange(10) % 2)
    assert from_loaders(grey, grey).image == (1, 5, 5)


def test_classes_come_from_the_argument_the_dataset_or_the_labels() -> None:
    assert from_loaders(Named(), Named()).classes == ("ant", "bee", "cat", "dog")
    assert from_loaders(Subset(Named(), range(9)), Named()).classes[0] == "ant"
    assert from_loaders(ConcatDataset([Named(), Named()]), Named()).classes[0] == "ant"
    assert from_loaders(DataLoader(Subset(Named(), range(9))), Named()).classes[0] == "ant"
    assert from_loaders(Photos(), Photos(), classes=["a", "b", "c", "d"]).classes == ("a", "b", "c", "d")
    counted = from_loaders(Photos(), Photos())
    assert counted.classes == ("0", "1", "2", "3")
    assert "reading every label once" in counted.notes[0]
    assert counted.train.labels is not None
    assert from_loaders(Named(), Named()).notes == ()


def test_data_knows_its_own_and_is_resized_on_the_device() -> None:
    data: Data = from_loaders(Named(), Named(), name="photos").resized(12)
    assert data.name == "photos"
    assert data.image == (3, 12, 12)
    assert not data.mirrors
    assert data.preprocessing.apply(read(data.train)[0].pictures).shape == (16, 3, 12, 12)
    assert data.train.classes == data.classes


def grey_item(size: int = 8) -> tuple[Tensor, int]:
    return torch.zeros(3, size, 6, dtype=torch.uint8), 0


# What an odd item number 5 leads to when the batch that holds it is read.
SPOILT = {
    "another size": (grey_item(9), "images differ: 3x9x6 uint8 here, 3x8x6 uint8 at train #0, train #5"),
    "float among bytes": ((torch.zeros(3, 8, 6), 0), "images differ: 3x8x6 float32"),
    "float label": ((grey_item()[0], 1.0), "the label 1.0 is no whole number, train #5"),
    "float tensor label": ((grey_item()[0], torch.tensor(1.0)), "is no whole number, train #5"),
    "one-hot": ((grey_item()[0], torch.eye(4)[0]), "is no whole number, train #5"),
    "too large": ((grey_item()[0], 4), "label 4 is none of the 4 classes, train #5"),
    "negative": ((grey_item()[0], -1), "label -1 is none of the 4 classes, train #5"),
    "dict": ({"image": grey_item()[0]}, "an item is a dict, train #5 - give \\(image, label\\)"),
    "path": (("photo.jpg", 0), "an image is a str, train #5"),
    "int32": ((grey_item()[0].int(), 0), "pixels of type int32, train #5"),
    "five axes": ((grey_item()[0][None], 0), "images of shape 1x3x8x6, train #5"),
    "error": (KeyError("photo\n5"), r"the dataset raised KeyError: 'photo\\+n5', train #5 - try dataset\[5\]"),
}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(("item", "said"), SPOILT.values(), ids=SPOILT)
def test_an_odd_item_is_named_when_it_is_read(item: Any, said: str, workers: int) -> None:
    dataset = Named()
    data = from_loaders(dataset, Named())
    dataset.spoilt[5] = item  # after the first look, as a file that breaks later
    with pytest.raises(DataError, match=said) as caught:
        read(data.train, workers=workers)
    assert "\n" not in str(caught.value)


def test_an_odd_item_is_named_at_once_where_labels_are_counted() -> None:
    with pytest.raises(DataError, match=r"the label 0\.5 is no whole number, valid #7"):
        from_loaders(Photos(), Photos(spoilt={7: (grey_item()[0], 0.5)}))


def loader_of(images: Tensor, labels: Any) -> list[Any]:
    return DataLoader([(images, labels)], batch_size=None, collate_fn=lambda pair: pair)


ODD_LOADERS = {
    "float labels": (loader_of(torch.zeros(4, 3, 8, 6), torch.zeros(4)), "labels of type float32, train batch 0"),
    "one-hot": (loader_of(torch.zeros(4, 3, 8, 6), torch.eye(4).long()), "labels of shape 4x4, train batch 0"),
    "counts": (loader_of(torch.zeros(4, 3, 8, 6), torch.zeros(3).long()), "4 images and 3 labels, train batch 0"),
    "list": (loader_of([1, 2], torch.zeros(2).long()), "the images are a list, train batch 0"),
    "not finite": (loader_of(torch.full((4, 3, 8, 6), torch.nan), torch.arange(4)), "not finite"),
}


@pytest.mark.parametrize(("loader", "said"), ODD_LOADERS.values(), ids=ODD_LOADERS)
def test_odd_batches_are_named(loader: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        from_loaders(loader, Photos(), classes="abcd")


NO_DATA = {
    "no validation": ((Photos(), None), "there is no valid data"),
    "a stream alone": ((Stream(), Photos()), "wrap it in a DataLoader"),
    "a generator": ((iter([]), Photos()), "empty after one pass"),
    "a number": ((3, Photos()), "an object of type int is no data, argument train"),
    "empty": ((Photos(), []), "the valid data is empty"),
    "another size": ((Named(), TensorDataset(torch.zeros(4, 3, 9, 9, dtype=torch.uint8), torch.arange(4))),
                     "images are 3x9x9, those to train on 3x8x6, valid"),
    "another scale": ((Named(), Named("float")), "images are float32, those to train on uint8, valid #0"),
    "one class": ((Subset(Photos(), [0, 4, 8]), Subset(Photos(), [0])), "there is only one class"),
}  # fmt: skip


@pytest.mark.parametrize(("parts", "said"), NO_DATA.values(), ids=NO_DATA)
def test_what_is_no_data_is_refused(parts: tuple[Any, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        from_loaders(*parts)


def test_labels_out_of_the_named_classes_are_refused() -> None:
    held = TensorDataset(make_pictures(), torch.arange(COUNT))
    with pytest.raises(DataError, match="label 2 is none of the 2 classes"):
        from_loaders(held, held, classes=["a", "b"])
    with pytest.raises(DataError, match="two classes have the same name"):
        from_loaders(held, held, classes=["a", "a"])


def test_a_loader_tells_its_batch_size() -> None:
    def size(loader: Any) -> int:
        return from_loaders(loader, Photos()).train.source.batch_size

    assert size(DataLoader(Photos(), batch_size=7)) == 7
    assert size(DataLoader(Photos(), batch_sampler=BatchSampler(SequentialSampler(Photos()), 9, False))) == 9
    assert size(DataLoader(Stream(10), batch_size=None, collate_fn=pair_up)) == 1
    assert not hasattr(from_loaders(Photos(), Photos()).train.source, "batch_size")


class Shuffling(BatchSampler):
    def __iter__(self) -> Iterator[list[int]]:
        return iter(torch.randperm(COUNT).view(-1, 8).tolist())


def test_a_loader_tells_whether_its_order_is_fixed() -> None:
    def ordered(loader: Any) -> bool:
        return from_loaders(loader, Photos()).train.source.ordered

    photos = Photos()
    assert ordered(DataLoader(photos, batch_size=7))
    assert ordered(DataLoader(photos, batch_sampler=BatchSampler(SequentialSampler(photos), 9, False)))
    assert not ordered(DataLoader(photos, batch_size=7, shuffle=True))
    assert not ordered(DataLoader(photos, batch_sampler=BatchSampler(RandomSampler(photos), 9, False)))
    assert not ordered(DataLoader(photos, batch_sampler=[[3, 1], [2, 0]]))  # its `sampler` says Sequential
    assert not ordered(DataLoader(photos, batch_sampler=Shuffling(SequentialSampler(photos), 9, False)))
    assert not ordered(DataLoader(Stream(), batch_size=9))


def test_held_pictures_are_all_looked_at_for_numbers_that_are_none() -> None:
    def tensors(spoilt: float) -> TensorDataset:
        pictures = torch.rand(1500, 1, 4, 4)
        pictures[1001] = spoilt
        return TensorDataset(pictures, torch.arange(1500) % 2)

    for parts, kind in (((tensors(torch.nan), tensors(0)), "train"), ((tensors(0), tensors(torch.inf)), "valid")):
        with pytest.raises(DataError, match=f"some pixels are not finite numbers, the {kind} images"):
            from_loaders(*parts)


def test_a_sound_batch_is_checked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    data, checked = from_loaders(Named(), Named()), []
    check = Expected.check
    monkeypatch.setattr(Expected, "check", lambda self, *given: (checked.append(len(given[0])), check(self, *given)))
    read(data.train)
    assert checked == [16, 16, 8]


def test_pictures_of_another_scale_than_the_nets_are_refused() -> None:
    own, usual = (from_loaders(Photos(form), Photos(form)).preprocessing for form in ("float", "tensor"))
    pictures = make_pictures()
    assert own.apply(pictures / 255).shape == usual.apply(pictures).shape
    with pytest.raises(
        DataError, match=r"values of the user's own scale, not on .* - give float tensors of that scale"
    ):
        own.apply(pictures)
    with pytest.raises(DataError, match=r"pictures of 0 to 255 \(uint8\), these are float32 - give uint8 pictures"):
        usual.apply(pictures / 255)


def test_preprocessing_comes_back_with_its_scale() -> None:
    for form, scale in (("float", "own"), ("tensor", "uint8")):
        made = from_loaders(Photos(form), Photos(form)).preprocessing
        written = json.loads(json.dumps(made.to_dict()))
        assert written["scale"] == scale
        assert Preprocessing.from_dict(written) == made
    del written["scale"]  # as before it was recorded
    assert Preprocessing.from_dict(written) == made


def test_deep_grey_images_stay_grey() -> None:
    for mode in ("I;16", "I;16B", "I", "F", "LA"):
        assert as_picture(Image.new(mode, (6, 8)), "here").shape == (1, 8, 6), mode


def test_channels_last_tensors_are_refused_with_the_way_out() -> None:
    pair = TensorDataset(torch.rand(8, 28, 28, 3), torch.arange(8) % 2)
    with pytest.raises(DataError, match=r"images of shape 28x28x3 have their channels last.*permute\(0, 3, 1, 2\)"):
        from_loaders(pair, pair)
