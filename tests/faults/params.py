"""What params.yaml may hold: any text, and any value at any key of the committed file."""

from __future__ import annotations

import copy
import dataclasses
import math
import tempfile
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from annotated_types import Ge, Gt, Le, MaxLen, MultipleOf
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from rapipe.config.loading import load
from rapipe.config.schema import Params
from rapipe.config.variants import variants
from rapipe.config.yaml_text import read_yaml, write_yaml
from rapipe.errors import UserError
from rapipe.pipeline.running.check_names import check
from rapipe.specs import ZeroOr

COMMITTED = (Path(__file__).parent.parent.parent / "params.yaml").read_text()
BASE: dict[str, Any] = read_yaml(COMMITTED)
BASE["classifiers"]["backbones"] = [
    "resnet18",
    "alexnet+noise",
]  # few, so that to check them is quick
KEYS = [(group, key) for group in BASE for key in (BASE[group] if group != "seed" else ())]
SOURCE_KEYS = ("kind", "path", "name", "label", "role", "limit", "weight", "other")
LONGEST = 3000
"""Letters of a message."""

odd_texts = st.sampled_from(
    [
        *("", " ", "..", "../..", "/", "a/b", "\\", "all", "none", "5", "+", "a+b", "~", "yes"),
        *("\0", "a\nb", "\x1b[31m", "\x1b]0;x\x07", "\ud800", "\u2028", "\u202e", "\ufeff", "[/x]"),
        *(
            "x" * 300,
            "x" * 5000,
            "ü" * 250,
            "timm:",
            "timm:..",
            "hub:",
            "${x}",
            "$(x)",
            "%s",
            "{0}",
        ),
        *("resnet18", "knn", "digits", "timm:" + "a" * 900, "alexnet+" * 100, "resnet18+frozen"),
    ]
)
odd_numbers = st.sampled_from(
    [
        *(0, 1, -1, 2, 10**9, 10**30, -(10**400), 10**4000, 2**31, 2**63, 2**64),
        *(0.0, -0.0, 0.5, 1.0, 1e-300, 5e-324, 1e308, math.inf, -math.inf, math.nan, 1e-7),
    ]
)
scalars: SearchStrategy[Any] = st.one_of(
    odd_texts, odd_numbers, st.text(max_size=20), st.integers(), st.floats(), st.booleans(),
    st.none(), st.dates(), st.binary(max_size=10),
)  # fmt: skip
values: SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.dictionaries(st.one_of(odd_texts, st.text(max_size=5)), inner, max_size=4),
    ),
    max_leaves=8,
) | st.sampled_from([0, 0.1, "knn", 1.0]).map(lambda item: [item] * 101)


@st.composite
def mutated(draw: st.DrawFn) -> dict[str, Any]:
    """The committed parameters with up to three keys changed, left out, added or renamed."""
    raw = copy.deepcopy(BASE)
    for _ in range(draw(st.integers(1, 3))):
        group, key = draw(st.sampled_from(KEYS))
        if not isinstance(raw.get(group), dict):
            continue
        match draw(st.sampled_from(["value"] * 6 + ["source", "item", "drop", "add", "group"])):
            case "value":
                raw[group][key] = draw(values)
            case "source":
                names = draw(st.sets(st.sampled_from(SOURCE_KEYS)))
                source = {name: draw(scalars) for name in sorted(names)}
                if isinstance(raw.get("corpus"), dict):
                    raw["corpus"]["sources"] = [{"kind": "digits", **source}]
            case "item":
                raw[group][key] = [draw(values)]
            case "drop":
                raw[group].pop(key, None)
            case "add":
                raw[group][draw(odd_texts)] = draw(values)
            case "group":
                raw[group] = draw(values)
    return raw


def parsed(text: str | bytes) -> Params | None:
    """What a file of this text holds, or None where it is refused in one bounded sentence."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "params.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
        try:
            params = load(path)
            check(params)
        except UserError as error:
            assert_readable(str(error))
            return None
    return params


def assert_readable(message: str) -> None:
    """A sentence that a terminal shows as it is."""
    assert message
    assert len(message) <= LONGEST, len(message)
    assert "\n" not in message
    assert not [letter for letter in message if not letter.isprintable()], ascii(message)


def assert_typed(kind: Any, value: Any) -> None:
    """The value is what its annotation says, all the way down, and in range."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        assert_typed(inner[0], value)
        for limit in inner[1:]:
            assert_limited(limit, value)
    elif origin is typing.Literal:
        assert value in inner
    elif origin is tuple:
        assert isinstance(value, tuple)
        for item in value:
            assert_typed(inner[0], item)
    elif dataclasses.is_dataclass(kind):
        assert type(value) is kind
        types = typing.get_type_hints(kind, include_extras=True)
        for field in dataclasses.fields(kind):
            assert_typed(types[field.name], getattr(value, field.name))
    elif inner:  # a union
        assert type(value) in inner
    else:
        assert type(value) is kind
        assert not isinstance(value, float) or math.isfinite(value)


def assert_limited(limit: Any, value: Any) -> None:
    """The value is what an annotation of pydantic's, or of ours, allows."""
    if isinstance(limit, ZeroOr):
        assert value == 0 or limit.low <= value <= limit.high
        return
    for bound in limit.metadata:
        match bound:
            case Ge():
                assert value >= bound.ge
            case Gt():
                assert value > bound.gt
            case Le():
                assert value <= bound.le
            case MultipleOf():
                assert value % bound.multiple_of == 0
            case MaxLen():
                assert len(value) <= bound.max_length
            case _:
                assert bound.allow_inf_nan is False
                assert math.isfinite(value)


def assert_valid(params: Params) -> None:
    """Of the right types, in range, and good for names of folders that stay where they belong."""
    assert_typed(Params, params)
    names = [variant.name for variant in variants(params)]
    assert len(set(names)) == len(names)
    for name in names:
        assert name.isprintable()
        assert "/" not in name
        assert len(name.encode()) <= 200
        assert name not in (".", "..")


def of_values(raw: dict[str, Any]) -> None:
    """Whatever a key holds, the file is refused in a sentence, or gives valid parameters."""
    if params := parsed(write_yaml(raw)):
        assert_valid(params)


def of_text(text: str | bytes) -> None:
    """Whatever the file holds, it is refused in a sentence, or gives valid parameters."""
    if params := parsed(text):
        assert_valid(params)


PIECES = st.sampled_from(
    [
        *(b"&", b"*", b"!", b"|", b">", b"%", b"@", b"`", b"{", b"}", b"[", b"]", b",", b":", b"#"),
        *(b"?", b"- ", b"'", b'"', b"\t", b"\r", b"\n", b"\0", b"\xff", b"\xef\xbb\xbf", b"? "),
        *(b"!!int ", b"!!binary ", b"!!timestamp ", b"!!set ", b"!x ", b"&a ", b"*a ", b"<<: *a"),
        *(b"---\n", b"...\n", b"%YAML 1.1\n", b"%TAG ! tag:x:\n"),
    ]
)


@st.composite
def garbled(draw: st.DrawFn) -> bytes:
    """The committed file with some bytes cut out and others put in."""
    text = COMMITTED.encode()
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.sampled_from([0, 0, 1, 5, 100])))
        put = b"".join(draw(st.lists(PIECES | st.binary(max_size=3), max_size=6)))
        text = text[:start] + put + text[end:]
    return text


TAGS = ("int", "float", "bool", "null", "str", "binary", "timestamp", "set", "omap", "pairs",
        "merge", "value", "seq", "map", "python/object/apply:os.system", "python/name:os.system",
        "python/tuple", "python/module:os")  # fmt: skip


@st.composite
def tagged(draw: st.DrawFn) -> str:
    """The committed file with a tagged value in the place of k."""
    tag = draw(st.sampled_from([f"!!{name}" for name in TAGS] + ["!own", "!<tag:x>", "!"]))
    value = draw(
        st.sampled_from(["", "''", "32", "'32'", "'x'", "[]", "[touch x]", "{}", "{a: b}", "0x1"])
    )
    return COMMITTED.replace("k: 32", f"k: {tag} {value}", 1)


PROPERTIES: dict[str, tuple[SearchStrategy[Any], Callable[[Any], None]]] = {
    "a value at a key": (mutated(), of_values),
    "a garbled file": (garbled(), of_text),
    "any bytes": (st.binary(max_size=200), of_text),
    "any text": (st.text(max_size=200), of_text),
    "a tag": (tagged(), of_text),
}
