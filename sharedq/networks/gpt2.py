"""GPT-2 (Radford et al., 2019) of any size and vocabulary, which reads tokens from left to right.

The weights of all layers are stacked on a leading axis, so that one block is compiled and a scan runs through them. Few
layers are unrolled: on two cores 2 layers of width 64 then take two thirds of the time, while 12 layers of width 768
would take three times the memory and twice the time to compile.

Shape letters: B texts, T tokens, V vocabulary, L layers, D width, H attention heads, d width of an attention head.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from sharedq.errors import SharedqError, reason
from sharedq.networks.heads import Compute, cast
from sharedq.networks.network import Params
from sharedq.random_keys import at, named
from sharedq.runs.tensor_file import read_header
from sharedq.settings import LAYERS, WIDTH, check_count, require

UNROLLED = 4  # ours: the largest number of layers that are compiled one by one
EPSILON = 1e-5  # of the layer norms
DEVIATION = 0.02  # standard deviation of the first weights
EXPANSION = 4  # ratio of a block's hidden width to its width

BYTE_PAIRS = 50_257  # rows of the published vocabulary
# Ours: which published token lends its embedding to each of the 35 symbols of Wordle. Printable bytes come first in the
# published vocabulary, from "!" on, and 198 is the end of a line. A game then reads as ">crane:BYGBB", "slate:GGGGG".
WORDLE = (
    *(ord(letter) - ord("!") for letter in "abcdefghijklmnopqrstuvwxyz"),
    *(ord(letter) - ord("!") for letter in "GBY"),  # green, black, yellow
    50_256,  # pad: <|endoftext|>
    ord(":") - ord("!"),  # end of an action
    198,  # end of a state
    ord("^") - ord("!"),  # begin of a sequence
    ord(">") - ord("!"),  # begin of an action
    ord(".") - ord("!"),  # end of a dialogue
)

PRODUCTS = {  # of a block: our name, the published one, and how many times D its inputs and outputs are
    "attention": ("attn.c_attn", 1, 3),  # queries, keys and values, one behind the other
    "attention_out": ("attn.c_proj", 1, 1),
    "mlp": ("mlp.c_fc", 1, EXPANSION),
    "mlp_out": ("mlp.c_proj", EXPANSION, 1),
}
NORMS = {"attention_norm": "ln_1", "mlp_norm": "ln_2"}  # of a block
RESIDUAL = ("attention_out", "mlp_out")  # products whose outputs are added to the residual stream
REMEDY = "set --network.layers, --network.width and the file to those of one model"


class Cache(NamedTuple):
    """What a model remembers of texts that it goes on with. What lies behind a text's length is never read."""

    keys: jax.Array  # [L, B, H, room, d]
    values: jax.Array  # [L, B, H, room, d]
    lengths: jax.Array  # [B] tokens read so far


class Init(Protocol):
    def __call__(self, key: jax.Array, /) -> Params:
        """The first weights: drawn, or the published ones."""


class Features(Protocol):
    def __call__(self, params: Params, tokens: jax.Array, key: jax.Array | None = None, /) -> jax.Array:
        """Features [B, T, D] of the tokens [B, T] behind the last layer norm. There is dropout if a key is given."""


class Logits(Protocol):
    def __call__(self, params: Params, features: jax.Array, /) -> jax.Array:
        """Logits [..., V] of the next token. Their weights are those of the embedding."""


class Start(Protocol):
    def __call__(self, params: Params, tokens: jax.Array, lengths: jax.Array, /) -> tuple[jax.Array, Cache]:
        """Reads texts [B, T], each padded on the right and of at least one token, without dropout.

        It returns the features [B, D] of each text's last token, and a cache with room for T tokens.
        """


class Extend(Protocol):
    def __call__(self, params: Params, cache: Cache, token: jax.Array, /) -> tuple[jax.Array, Cache]:
        """Reads one more token [B] of each text, at its own place. It returns the features [B, D] of this token."""


class LanguageModel(NamedTuple):
    init: Init
    features: Features
    logits: Logits
    start: Start
    extend: Extend


@dataclass(frozen=True)
class GPT2:
    """GPT-2, a transformer that reads tokens; for algorithms ilql and bc. The defaults are those of GPT-2 small."""

    layers: int = 12  # number of blocks, each with attention and a hidden layer of four times the width
    width: int = 768  # number of features of a token; a multiple of the attention heads
    attention_heads: int = 12  # number of attention heads of a block
    positions: int = 1024  # largest number of tokens of a text
    dropout: float = 0.1  # share of embeddings, attention weights and outputs of branches that training sets to 0
    compute: Compute = "float32"  # precision of matrix products; parameters, layer norms and softmax stay float32
    weights: str | None = None  # safetensors file with published GPT-2 weights to begin with; none draws them

    def __post_init__(self):
        check_count("network.layers", self.layers, most=LAYERS)
        check_count("network.width", self.width, most=WIDTH)
        check_count("network.attention_heads", self.attention_heads, most=WIDTH)
        check_count("network.positions", self.positions, most=WIDTH)
        heads = self.attention_heads
        whole = self.width % heads == 0
        require(whole, f"network.width must be a multiple of the {heads} attention heads, not {self.width}")
        require(0 <= self.dropout < 1, f"network.dropout must be at least 0 and below 1, not {self.dropout}")

    def pinned(self) -> "GPT2":
        """The same settings; raises if there is a file of weights to begin with and it cannot be read."""
        if self.weights is not None:
            _arrays(Path(self.weights))
        return self

    def build(self, outputs: int) -> NoReturn:
        raise SharedqError("network 'gpt2' reads text, as algorithms ilql and bc do: choose another --network")

    def language_model(self, vocabulary: int) -> LanguageModel:
        """The functions of a model of texts with so many different tokens."""
        check_count("the vocabulary", vocabulary)

        def init(key: jax.Array) -> Params:
            # An agent that is trained already is loaded into weights of this form, and its file may be gone by then.
            published = self.weights is not None and Path(self.weights).exists()
            return self._published(vocabulary) if published else self._drawn(key, vocabulary)

        def features(params: Params, tokens: jax.Array, key: jax.Array | None = None) -> jax.Array:
            return self._read(params, tokens, key)[0]

        def logits(params: Params, features: jax.Array) -> jax.Array:
            return self._product(features, params["tokens"].T)

        def start(params: Params, tokens: jax.Array, lengths: jax.Array) -> tuple[jax.Array, Cache]:
            features, (keys, values) = self._read(params, tokens)
            last = jnp.take_along_axis(features, (lengths - 1)[:, None, None], axis=1)[:, 0]
            return last, Cache(keys, values, lengths)

        def extend(params: Params, cache: Cache, token: jax.Array) -> tuple[jax.Array, Cache]:
            features, new = self._read(params, token[:, None], past=cache)
            keys, values = (_put(old, x, cache.lengths) for old, x in zip(cache[:2], new))
            return features[:, 0], Cache(keys, values, cache.lengths + 1)

        return LanguageModel(init, features, logits, start, extend)

    def _drawn(self, key: jax.Array, vocabulary: int) -> Params:
        """Weights as in GPT-2: the more branches add to the residual stream, the smaller each of them begins."""
        layers, width = self.layers, self.width

        def draw(name: str, *shape: int) -> jax.Array:
            small = DEVIATION / math.sqrt(2 * layers) if name in RESIDUAL else DEVIATION
            return small * jax.random.normal(named(key, name), shape)

        products = {
            name: {"kernel": draw(name, layers, a * width, b * width), "bias": jnp.zeros((layers, b * width))}
            for name, (_, a, b) in PRODUCTS.items()
        }
        norms = {name: {"scale": jnp.ones((layers, width)), "bias": jnp.zeros((layers, width))} for name in NORMS}
        return {
            "tokens": draw("tokens", vocabulary, width),
            "positions": draw("positions", self.positions, width),
            "blocks": products | norms,
            "norm": {"scale": jnp.ones(width), "bias": jnp.zeros(width)},
        }

    def _published(self, vocabulary: int) -> Params:
        """The weights of the file, in the form of those that are drawn."""
        path, width = Path(str(self.weights)), self.width
        arrays = _arrays(path)
        prefix = "transformer." if "transformer.wte.weight" in arrays else ""
        masks = re.compile(re.escape(prefix) + r"h\.\d+\.attn\.(masked_)?bias")
        arrays = {name: array for name, array in arrays.items() if not masks.fullmatch(name)}

        def take(name: str, *shape: int | None) -> np.ndarray:
            array = arrays.pop(prefix + name, None)
            if array is None:
                raise SharedqError(f"{path} has no '{prefix}{name}': {REMEDY}")
            fits = len(array.shape) == len(shape) and all(n in (None, m) for n, m in zip(shape, array.shape))
            form = ", ".join("any" if n is None else str(n) for n in shape)
            require(fits, f"'{prefix}{name}' of {path} has shape {list(array.shape)}, not [{form}]: {REMEDY}")
            floats = jnp.issubdtype(array.dtype, jnp.floating)
            require(floats, f"'{prefix}{name}' of {path} holds {array.dtype}: choose a file of floating-point weights")
            return array.astype(np.float32)

        def product(name: str, inputs: int, outputs: int) -> dict[str, np.ndarray]:
            return {"kernel": take(f"{name}.weight", inputs, outputs), "bias": take(f"{name}.bias", outputs)}

        def norm(name: str) -> dict[str, np.ndarray]:
            return {"scale": take(f"{name}.weight", width), "bias": take(f"{name}.bias", width)}

        def block(layer: int) -> Params:
            products = {
                ours: product(f"h.{layer}.{name}", a * width, b * width) for ours, (name, a, b) in PRODUCTS.items()
            }
            return products | {ours: norm(f"h.{layer}.{name}") for ours, name in NORMS.items()}

        tokens, positions = take("wte.weight", None, width), take("wpe.weight", None, width)
        blocks = jax.tree.map(lambda *layers: np.stack(layers), *map(block, range(self.layers)))
        params = {"blocks": blocks, "norm": norm("ln_f")}
        tied = np.array_equal(arrays.pop("lm_head.weight", tokens), tokens)
        require(
            tied, f"'lm_head.weight' of {path} is not equal to '{prefix}wte.weight', as in GPT-2: choose another file"
        )
        if arrays:
            raise SharedqError(f"{path} has '{min(arrays)}', which is not in this network: {REMEDY}")
        enough = len(positions) >= self.positions
        require(enough, f"{path} has {len(positions):,} positions: set --network.positions to at most as many")
        if len(tokens) == BYTE_PAIRS and vocabulary == len(WORDLE):
            tokens = tokens[list(WORDLE)]
        same = len(tokens) == vocabulary
        require(
            same, f"{path} has {len(tokens):,} tokens and the texts have {vocabulary:,}: leave --network.weights out"
        )
        return jax.tree.map(jnp.asarray, {"tokens": tokens, "positions": positions[: self.positions], **params})

    def _read(
        self, params: Params, tokens: jax.Array, key: jax.Array | None = None, past: Cache | None = None
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """Features [B, T, D], and the keys and values [L, B, H, T, d] of these tokens."""
        self._check_length(tokens.shape[1])
        places = jnp.arange(tokens.shape[1])[None] if past is None else past.lengths[:, None]  # [1 or B, T]
        x = params["tokens"][tokens.astype(jnp.int32)] + params["positions"][places]
        # But for attention, the tokens of all texts lie on one axis: XLA's programs for CPUs are a tenth faster then.
        x = self._dropped(x, key, "embedding").reshape(-1, self.width)

        def block(x: jax.Array, layer: Any) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
            weights, number, old = layer
            layer_key = None if key is None else at(named(key, "blocks"), number)
            normed = _norm(weights["attention_norm"], x)
            mixed, new = self._attention(weights, normed.reshape(*tokens.shape, -1), places, layer_key, old)
            x = x + self._dropped(self._linear(weights["attention_out"], mixed), layer_key, "attention_out")
            hidden = self._linear(weights["mlp"], _norm(weights["mlp_norm"], x))
            hidden = jax.nn.gelu(hidden, approximate=True)
            return x + self._dropped(self._linear(weights["mlp_out"], hidden), layer_key, "mlp_out"), new

        old = None if past is None else (past.keys, past.values)
        unroll = self.layers if self.layers <= UNROLLED else 1
        x, new = jax.lax.scan(block, x, (params["blocks"], jnp.arange(self.layers), old), unroll=unroll)
        return _norm(params["norm"], x).reshape(*tokens.shape, -1), new

    def _attention(
        self, weights: Params, x: jax.Array, places: jax.Array, key: jax.Array | None, old: Any
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """What each token takes from those up to its place [B T, D], and the keys and values [B, H, T, d]."""
        batch, count, width = x.shape
        three = self._linear(weights["attention"], x.reshape(-1, width))
        three = three.reshape(batch, count, 3, self.attention_heads, -1)
        queries, keys, values = jnp.moveaxis(cast(three, self.compute), (2, 3), (0, 2))  # [B, H, T, d] each
        new = (keys, values)
        if old is not None:
            keys, values = (_put(room, one, places[:, 0]) for room, one in zip(old, new))
        scores = self._product(queries, keys.mT) / math.sqrt(queries.shape[-1])  # [B, H, T, all tokens]
        seen = jnp.arange(keys.shape[2]) <= places[:, None, :, None]
        shares = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf))
        mixed = self._product(self._dropped(shares, key, "attention"), values)
        return mixed.swapaxes(1, 2).reshape(-1, width), new

    def _linear(self, weights: Params, x: jax.Array) -> jax.Array:
        return self._product(x, weights["kernel"]) + weights["bias"]

    def _product(self, a: jax.Array, b: jax.Array) -> jax.Array:
        product = cast(a, self.compute) @ cast(b, self.compute)
        return product if self.compute == "float32" else product.astype(jnp.float32)

    def _dropped(self, x: jax.Array, key: jax.Array | None, place: str) -> jax.Array:
        if key is None or self.dropout == 0:
            return x
        kept = jax.random.bernoulli(named(key, place), 1 - self.dropout, x.shape)
        return jnp.where(kept, x / (1 - self.dropout), 0)

    def _check_length(self, tokens: int) -> None:
        fits = tokens <= self.positions
        require(fits, f"a text of {tokens:,} tokens needs more than the {self.positions:,} of network.positions")


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file by their names. Each is read from the file when it is used."""
    try:
        return read_header(np.memmap(path, np.uint8, "r"))[0]
    except OSError as error:
        raise SharedqError(f"network.weights: cannot read {path} ({error.strerror})") from None
    except ValueError as error:
        raise SharedqError(f"network.weights: {path} is no safetensors file ({reason(error)})") from None


def _norm(weights: Params, x: jax.Array) -> jax.Array:
    centred = x - x.mean(-1, keepdims=True)
    variance = jnp.square(centred).mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt(variance + EPSILON) * weights["scale"] + weights["bias"]


def _put(old: jax.Array, new: jax.Array, places: jax.Array) -> jax.Array:
    """Puts one token [..., B, H, 1, d] of each text into its place of [..., B, H, room, d]."""
    rows = jnp.arange(len(places))
    return old.at[..., rows, :, places, :].set(jnp.moveaxis(new[..., 0, :], -3, 0))
