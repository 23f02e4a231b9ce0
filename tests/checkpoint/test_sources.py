"""Names are torchvision's own; addresses are https; without a network the message is all that a user needs."""

import io
import re
import time
import urllib.request
from urllib.error import URLError

import pytest
import torch
from torchvision.models import VGG16_BN_Weights, VGG16_Weights

from detlite.checkpoint import read_weights, sources
from detlite.checkpoint.sources import find_weights, torchvision_pixels, torchvision_set
from detlite.errors import UserError

URL = "https://example.com/some/weights.pth"


@pytest.fixture
def network(monkeypatch):
    """A function that sets the answer of all addresses, and returns a list that collects the requested ones."""

    def answer(content, size=None):
        asked = []

        def open_(url):
            asked.append(url)
            if isinstance(content, Exception):
                raise content
            reply = io.BytesIO(content)
            reply.headers = {} if size is None else {"Content-Length": str(size)}
            return reply

        monkeypatch.setattr(sources, "_open", open_)
        return asked

    return answer


def small_file():
    content = io.BytesIO()
    torch.save({"features.0.weight": torch.zeros(4, 3, 3, 3)}, content)
    return content.getvalue()


@pytest.mark.parametrize(
    "name, entry",
    [
        ("torchvision/vgg16", VGG16_Weights.IMAGENET1K_V1),
        ("torchvision/vgg16/IMAGENET1K_FEATURES", VGG16_Weights.IMAGENET1K_FEATURES),
        ("torchvision/vgg16_bn", VGG16_BN_Weights.IMAGENET1K_V1),
    ],
)
def test_a_name_is_torchvision_s_entry(name, entry):
    assert torchvision_set(name) is entry


def test_the_features_only_set_takes_rgb_from_0_to_255_as_its_transforms_say():
    pixels = torchvision_pixels(VGG16_Weights.IMAGENET1K_FEATURES)
    image = torch.rand(3, 224, 224, generator=torch.Generator().manual_seed(0))
    theirs = VGG16_Weights.IMAGENET1K_FEATURES.transforms(crop_size=224, resize_size=224)(image)
    mean, std = torch.tensor(pixels.mean)[:, None, None], torch.tensor(pixels.std)[:, None, None]
    torch.testing.assert_close((image * 255 - mean) / std, theirs, atol=2e-3, rtol=0)
    assert pixels.std == (1, 1, 1)


@pytest.mark.parametrize(
    "name, message",
    [
        ("torchvision/vgg_16", "no classifier or Faster R-CNN 'vgg_16'; did you mean vgg16"),
        ("torchvision/fasterrcnn_resnet_50_fpn", "did you mean fasterrcnn_resnet50_fpn"),
        ("torchvision/vgg16/IMAGENET1K_V2", "no such set of weights; did you mean IMAGENET1K_V1"),
        (
            "https://example.com/R-50/model.pkl",
            r'model.pkl: a pickle can run code.*\n.*load\("model.pkl", allow_pickle=True',
        ),
        ("vgg16", "torchvision's are called torchvision/vgg16"),
        ("http://example.com/x.pth", "https:// addresses only"),
        ("ftp://example.com/x.pth", "https:// addresses only"),
        ("file:///etc/passwd", "https:// addresses only"),
    ],
)
def test_a_wrong_name_or_address_is_one_message(name, message, network):
    asked = network(URLError("not to be asked"))
    with pytest.raises(UserError, match=message):
        read_weights(name)
    assert asked == []


def test_offline_the_message_names_the_file_to_fetch_and_where_to_put_it(cache, network):
    network(URLError("Name or service not known"))
    with pytest.raises(UserError) as error:
        read_weights("torchvision/vgg16")
    text = str(error.value)
    assert "torchvision/vgg16: cannot fetch " + VGG16_Weights.IMAGENET1K_V1.url in text
    assert "Name or service not known" in text
    assert f"put it at {cache / 'vgg16-397923af.pth'}" in text
    assert list(cache.iterdir()) == []


def test_a_file_put_there_is_taken_without_a_network(cache, network):
    asked = network(URLError("Name or service not known"))
    cache.mkdir(parents=True)
    (cache / "vgg16-397923af.pth").write_bytes(small_file())
    weights = read_weights("torchvision/vgg16")
    assert list(weights.state) == ["features.0.weight"] and asked == []
    assert weights.pixels == torchvision_pixels(VGG16_Weights.IMAGENET1K_V1)


def test_torchvision_s_file_is_known_wherever_it_lies(tmp_path):
    for name, entry in (
        ("vgg16-397923af.pth", VGG16_Weights.IMAGENET1K_V1),
        ("vgg16_features-amdegroot-88682ab5.pth", VGG16_Weights.IMAGENET1K_FEATURES),
    ):
        assert find_weights(tmp_path / name) == (tmp_path / name, torchvision_pixels(entry))
    assert find_weights(tmp_path / "other-12345678.pth") == (tmp_path / "other-12345678.pth", None)


def test_a_download_is_kept_and_not_repeated(cache, network):
    content = small_file()
    asked = network(content, len(content))
    assert list(read_weights(URL).state) == ["features.0.weight"]
    assert list(read_weights(URL).state) == ["features.0.weight"]
    assert asked == [URL] and len(list(cache.iterdir())) == 1


def test_two_addresses_that_end_alike_are_two_files(cache, network):
    asked = network(small_file())
    read_weights(URL)
    read_weights("https://example.com/other/weights.pth?version=2")
    assert len(asked) == 2 and len(list(cache.iterdir())) == 2
    assert all(file.name.endswith("_weights.pth") for file in cache.iterdir())


@pytest.mark.parametrize(
    "source, size, message",
    [
        (URL, 1_000_000, r"ended after \d+ of 1000000 bytes"),
        ("torchvision/vgg16", None, r"wrong checksum \(SHA-256"),
    ],
)
def test_half_a_download_or_another_file_leaves_nothing_behind(cache, network, source, size, message):
    network(small_file(), size)
    with pytest.raises(UserError, match=message):
        read_weights(source)
    assert list(cache.iterdir()) == []


def test_a_redirect_out_of_https_is_refused():
    request = urllib.request.Request(URL)
    handler = sources.HttpsOnly()
    with pytest.raises(OSError, match="not https"):
        handler.redirect_request(request, None, 302, "Found", {}, "http://example.com/weights.pth")
    followed = handler.redirect_request(request, None, 302, "Found", {}, "https://cdn.example.com/weights.pth")
    assert followed.full_url == "https://cdn.example.com/weights.pth"


def test_an_answer_that_is_no_file_of_weights_is_not_kept(cache, network):
    asked = network(b"<!DOCTYPE html><html>Please log in</html>")
    with pytest.raises(UserError, match=f"{URL}: cannot fetch {URL}: .*not loaded"):
        read_weights(URL)
    assert list(cache.iterdir()) == []
    network(small_file()[:-100])  # a cut answer without a length
    with pytest.raises(UserError, match="cannot fetch"):
        read_weights(URL)
    assert list(cache.iterdir()) == [] and asked == [URL]


def test_a_damaged_file_in_the_cache_is_fetched_again(cache, network, caplog):
    network(small_file())
    read_weights(URL)
    (file,) = cache.iterdir()
    file.write_bytes(b"<!DOCTYPE html>")
    with caplog.at_level("WARNING"):
        assert list(read_weights(URL).state) == ["features.0.weight"]
    assert "; it is fetched again" in caplog.text and file.read_bytes() == small_file()


class Slow(io.BytesIO):
    """An answer of one byte at a time."""

    headers = {}

    def read1(self, size):
        time.sleep(0.02)
        return b"x"


@pytest.mark.parametrize(("limit", "value"), [("MIN_SPEED", 10**6), ("LONGEST", 0.3), ("LARGEST", 10)])
def test_a_download_without_end_is_given_up(cache, monkeypatch, limit, value):
    monkeypatch.setattr(sources, "_open", lambda url: Slow())
    for name, number in {"PATIENCE": 0.3, "MIN_SPEED": 0, limit: value}.items():
        monkeypatch.setattr(sources, name, number)
    with pytest.raises(UserError, match=r"given up after \d+ bytes in \d s, too slow or too large"):
        read_weights(URL)
    assert list(cache.iterdir()) == []


def test_a_server_that_does_not_answer_is_given_up(cache, monkeypatch):
    monkeypatch.setattr(sources, "_open", lambda url: time.sleep(20))
    monkeypatch.setattr(sources, "PATIENCE", 0.3)
    with pytest.raises(UserError, match="given up after 0 bytes"):
        read_weights(URL)


@pytest.mark.parametrize("end", ["%00.pth", "x" * 300, "%2e%2e%2f%2e%2e%2fx", "a%0Aerror: b\x1b.pth"])
def test_any_end_of_an_address_is_a_file_in_the_cache(cache, network, end):
    network(small_file())
    read_weights(f"https://example.com/{end}")
    (file,) = cache.iterdir()
    assert re.fullmatch(r"[\w.-]+", file.name)
