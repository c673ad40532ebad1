"""Identity: hashes with a secret key that decide the equality of packets, flows and headers.

The sender of a packet can choose the value of any hash without a key (the digest's rounds can be undone one by one).
Therefore hashes with a key decide equality; the key is drawn when the process starts and never leaves it. For two
inputs that were chosen without the key the probability of equal hashes is

- at most 2^-62 for `identity` and `content` of a row, and for the hash of a network header: products of pairs of words
  (NH of UMAC, Black et al. 1999), narrowed to 64 bits by a multilinear hash (Dietzfelbinger 1996);
- at most 2^-64 for `mixed`: two multilinear hashes of 32 bits (Lemire and Kaser, "Strongly universal string hashing is
  fast", 2014). A hash of a hash adds its own bound.

No result may depend on the key otherwise. The order of hashes means nothing: code that numbers, sorts or walks over
groups of equal hashes takes `group_numbers`, which counts groups in order of first appearance.

The proof, the costs and what was rejected: docs/decisions/0008-identity-with-a-key.md.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Any

import numba
import numpy as np

from pktrace.compiled import inlined
from pktrace.decode.equal_kernel import add_column, find_wanted, number_values
from pktrace.wire import little_double

Array = np.ndarray[Any, Any]

# The uses of the key, by the numbers of its words of 64 bits. Kernels get the key as an argument, since the value of a
# global name would be compiled into the cache on the disk.
NARROW_IDENTITY, NARROW_CONTENT, NARROW_HEADER = 0, 2, 4
HEADER, PAYLOAD, TRANSPORT = 6, 12, 20
_AH_BYTES, _TCP_BYTES = (255 + 2) * 4, 60
TRANSPORT_WORDS = -(-(_AH_BYTES + _TCP_BYTES) // 16) * 2 + 2  # of the longest transport header, and the words behind it
LENGTHS = TRANSPORT + TRANSPORT_WORDS
_MOST_LENGTHS = 65  # of payload bytes that are hashed
TCP_OPTIONS = LENGTHS + _MOST_LENGTHS
TCP_OPTION_WORDS = 80  # two for each of 40 bytes
TABLES = TCP_OPTIONS + TCP_OPTION_WORDS
_TABLE_WORDS = 16
_START = TABLES + _TABLE_WORDS
_COLUMNS = _START + 2
_MOST_COLUMNS = 24
_PLACES = _COLUMNS + 4 * (_MOST_COLUMNS * (_MOST_COLUMNS + 1) // 2)
_WORDS = _PLACES + 1

_TOGETHER = 1 << 14  # rows whose columns are mixed together; as many fit in the processor's cache
_UPPER = np.uint64(0xFFFFFFFF00000000)
_32 = np.uint64(32)

_key = np.frombuffer(bytearray(secrets.token_bytes(8 * _WORDS)), np.uint8)


def secret() -> Array:
    """The key of this process, uint8: the argument of kernels."""
    return _key


def _use_key_of(seed: int) -> None:
    """For tests alone: another key, which follows from a number. Rows made before become worthless."""
    _key[:] = np.frombuffer(hashlib.shake_256(str(seed).encode()).digest(len(_key)), np.uint8)


if numba.config.DISABLE_JIT:

    def product(one, other):
        """Both halves, lower and upper, of a product of two 64 bit words."""
        whole = int(one) * int(other)
        return np.uint64(whole & 0xFFFFFFFFFFFFFFFF), np.uint64(whole >> 64)

else:
    from llvmlite import ir
    from numba.core import types
    from numba.extending import intrinsic

    @intrinsic
    def product(typing_context, one, other):
        """Both halves, lower and upper, of a product of two 64 bit words."""

        def generate(context, builder, signature, arguments):
            wide, word = ir.IntType(128), ir.IntType(64)
            whole = builder.mul(*(builder.zext(argument, wide) for argument in arguments))
            halves = (builder.trunc(whole, word), builder.trunc(builder.lshr(whole, ir.Constant(wide, 64)), word))
            return context.make_tuple(builder, signature.return_type, halves)

        return types.UniTuple(types.uint64, 2)(types.uint64, types.uint64), generate


@inlined
def key_word(key, number):
    """One word of the key; `key` is the memory of `secret()`."""
    return little_double(key, 8 * number)


@inlined
def add_pair(low, high, key, number, one, other):
    """The sums with the product of a further pair of words; `number` is the place of the pair's keys.

    The upper halves are added without the carries of the lower halves: two sums of carries differ by at most 1.
    """
    lower, upper = product(one + key_word(key, number), other + key_word(key, number + 1))
    return low + lower, high + upper


@inlined
def narrowed(key, number, value):
    """The upper 64 bits of a word times a key of 128 bits, modulo 2^128."""
    _, upper = product(key_word(key, number), value)
    return upper + key_word(key, number + 1) * value


@inlined
def finished(low, high, key, number):
    """64 bits of the sums; `number` is the place of two words of the key.

    If the lower sums are equal, the upper ones differ; if the lower sums differ, one key in 2^63 makes the hashes
    equal.
    """
    return narrowed(key, number, low) + high


def mixed(*columns: Array) -> Array:
    """A 64 bit hash per row of some columns, with the key of this process; equal for equal rows, whatever their types.

    Each half is the upper half of a sum of products, modulo 2^64, of 32 bit words and keys of 64 bits. Each number of
    columns has its own keys: hashes of two columns are unrelated to hashes of three.
    """
    width, count = len(columns), len(columns[0])
    words, at = _key.view(np.uint64), _COLUMNS + 2 * width * (width - 1)
    keys = words[at : at + 4 * width].reshape(width, 4)
    short = [
        column.dtype == np.bool_ or (column.dtype.kind == "u" and column.dtype.itemsize <= 4) for column in columns
    ]
    lower, upper = (np.full(count, words[_START + half]) for half in (0, 1))
    for begin in range(0, count, _TOGETHER):
        piece = slice(begin, begin + _TOGETHER)
        for number, column in enumerate(columns):
            add_column(lower[piece], upper[piece], column[piece].astype(np.uint64), keys[number], short[number])
        lower[piece] >>= _32
        upper[piece] &= _UPPER
        lower[piece] |= upper[piece]
    return lower


def groups_of(*columns: Array) -> tuple[Array, Array]:
    """Equal rows get one number, from 0 on in order of first appearance, whatever the key.

    Returns:
        The first row of each number; int64 per row, its number.
    """
    values = _whole(columns[0]) if len(columns) == 1 else mixed(*columns)
    number, first = np.empty(len(values), np.int64), np.empty(len(values), np.int64)
    count = number_values(values, *_table(len(values)), number, first)
    return first[:count].copy(), number


def group_numbers(*columns: Array) -> Array:
    """int64 per row: the numbers of `groups_of`."""
    return groups_of(*columns)[1]


def found_among(values: Array, wanted: Array) -> Array:
    """int64 per value, an integer: its first place among the wanted values, -1 without one."""
    found = np.full(len(values), -1)
    if len(values) and len(wanted):
        find_wanted(_whole(values), _whole(wanted), *_table(len(wanted)), found)
    return found


def among(values: Array, wanted: Array) -> Array:
    """bool per value, an integer: it is one of the wanted values."""
    return np.asarray(found_among(values, wanted) >= 0)


def _whole(values: Array) -> Array:
    """The values as contiguous 64 bit integers."""
    found: Array = np.ascontiguousarray(values, np.uint64)
    return found


def _table(values: int) -> tuple[np.uint64, Array]:
    """An odd word of the key, and a table with free places for all values."""
    return _key.view(np.uint64)[_PLACES] | np.uint64(1), np.full(
        1 << (1 + values + values // 2).bit_length(), -1, np.int32
    )
