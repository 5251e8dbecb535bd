"""Index tables against the checksums of the specifications, entry by entry.

Both implementations are held against them: the plain one that costs and messages use, and the one
that networks hold.
"""

from __future__ import annotations

import hashlib
from collections import Counter

import pytest
import torch
from torch import Tensor

from spacelang.backends.torch.lowering.tables import TableKey, table
from spacelang.backends.torch.storage import labelled_tables
from spacelang.backends.torch.supernet import Supernet
from spacelang.loader import load
from spacelang.ops.buckets import bucket_count, bucket_table

# Grid, table, skip; buckets, used, least and largest id, sum and sha256 of the ids as int32.
BUCKETS = [
    (14, 14, "euclidean", 0, 7, 4, 3, 6, 222844, "4bfaad74d950b70441ddb1b8e3cedb71369a0c6e80fec4bc0eea8f4926e0f60e"),
    (14, 14, "euclidean", 1, 8, 5, 3, 7, 225595, "3db14ceeb53fcc8a254bd5706b660f1acad533513e01a6779c6733be23e5c7b6"),
    (14, 14, "quantised", 0, 7, 4, 3, 6, 227776, "281fe2491f12e232f233e163409c0475986022711b6d1d604e823d3d3bbf5ca9"),
    (14, 14, "quantised", 1, 8, 5, 3, 7, 230527, "3f9bec8a2b2f6e91c857a1c0979bf34738731de82788f552997c767b44d9b674"),
    (14, 14, "product", 0, 49, 49, 0, 48, 921984, "1a374b138951200da88e2b31a0ff1aeb75ac59a855e182065f4dc3933070eb64"),
    (14, 14, "product", 1, 50, 50, 0, 49, 941241, "970ed76a977009fe066a6fab17d4dffeb059df1e1250c3cdb5ef62e25dd4dea9"),
    (14, 14, "cross_rows", 0, 7, 7, 0, 6, 115248, "451a2df693bfb07fd91297fb6a5008fbc7e585ad96234babf136d1fd13594c05"),
    (14, 14, "cross_rows", 1, 8, 8, 0, 7, 117999, "123c77e4bcbd1d10ceb391575c8d4692ef9c5f1bf2b2f7510ae510cf9ff0296e"),
    (14, 14, "cross_cols", 0, 7, 7, 0, 6, 115248, "47738d244c5cee5833407c7ac78e36164835cc59690013c9f1311594c7ece648"),
    (14, 14, "cross_cols", 1, 8, 8, 0, 7, 117999, "a51ad96ad912655f4b5fc1ffa6bfb0d9a27c48f3605b3464c2aa034855219d24"),
    (7, 7, "euclidean", 0, 7, 4, 3, 6, 12851, "2d3db1857a0b20a863cc46dccd5956c291dab717f35a8529fa1e173499d3a552"),
    (7, 7, "euclidean", 1, 8, 5, 3, 7, 13544, "941725fc56a73d92298f98ad37b9e601343c4eba7c07ec9632b5026e75ee8585"),
    (7, 7, "quantised", 0, 7, 4, 3, 6, 13779, "f4289de9dc9ac36adb18611b1cfed6d97944b0d3b57d037657a3de1c59380433"),
    (7, 7, "quantised", 1, 8, 5, 3, 7, 14472, "63feb21e2f53a75bc5f3b108d6fed7c19f2d385b4c6b3cd50f418933c0290756"),
    (7, 7, "product", 0, 49, 49, 0, 48, 57624, "15eefc0c5c2ad6e014b63bccb1ef3b3204443669eb9e90e9c25b1cf6ad3278ff"),
    (7, 7, "product", 1, 50, 50, 0, 49, 62475, "659cd29106108712bd02a4662410c1335fd14ba5ad315c49cf7721444ebaf8e3"),
    (7, 7, "cross_rows", 0, 7, 7, 0, 6, 7203, "aae6dc7a2696ff5ede5cd5779f89f53325ce05f472203f89af36feace92e0519"),
    (7, 7, "cross_rows", 1, 8, 8, 0, 7, 7896, "92c6141727f7c672542eb9c8c17af59a5df95785e636ff29d34ae8896aa1126d"),
    (7, 7, "cross_cols", 0, 7, 7, 0, 6, 7203, "e4872d6d7be24207ec1a603c939f8168fec22c9e789d5d2f331f9bc7a6336f86"),
    (7, 7, "cross_cols", 1, 8, 8, 0, 7, 7896, "c27bae7af3672069ffe678e451053b4ff7d5e3b0950b6e57a375dec87e62d053"),
    (24, 24, "product", 0, 49, 49, 0, 48, 7962624, "a71124774abfb41cbc499229bcc4f7db9d49e294ee8091b1caf805dd5cd82225"),
    (24, 24, "product", 1, 50, 50, 0, 49, 8019121, "af14cff1358d87d864dc1e68d1e823cd7fc125d393aed4553cfc886e9f30b091"),
    (10, 14, "product", 0, 49, 49, 0, 48, 470400, "a4a344ef00e6926c2ea5ced79ded2a2bbbfa30838dffc73c32437332b3f78676"),
    (10, 14, "product", 1, 50, 50, 0, 49, 484169, "74d66d709880bb48c90b5b5df55b5e733295ad5bea76ad9f3a777dbfc8d99ea8"),
    (10, 14, "cross_rows", 0, 7, 7, 0, 6, 58800, "cfc3efe07c7a8324216c9cb12b241370950151b625f8ac639ed1d1b46f2334f6"),
    (10, 14, "cross_rows", 1, 8, 8, 0, 7, 60767, "1c976a78f25e637310c9f25de39d07c402a7f854626726cf89abb440191587da"),
    (10, 14, "cross_cols", 0, 7, 7, 0, 6, 58800, "41029371d69861b26e1d52bb06e7238f0a9f4e3433d08b27c513e468a574825e"),
    (10, 14, "cross_cols", 1, 8, 8, 0, 7, 60767, "e3de96128cf81ce00262061e608ea594e43ff94a250788f61ee294ba7766c0aa"),
    (3, 3, "euclidean", 0, 7, 3, 3, 5, 347, "54cb60da3780b3b69287841360bb4c7e6f2c88583dcd08b00ff35aed68c53dcc"),
    (3, 3, "euclidean", 1, 8, 4, 3, 7, 480, "610f19065bd9df10d0db904547b12b23d1a3166ab971892463ca505915b6e530"),
    (3, 3, "quantised", 0, 7, 4, 3, 6, 395, "49c2ebdcc5a3ef5add204edebcc2fe7e8be4bb0051fa4521304c6ca36ec345b5"),
    (3, 3, "quantised", 1, 8, 5, 3, 7, 528, "34ab578e2c190e34e10b8f331add5559aedc433f619bd75909a356068990d005"),
    (3, 3, "product", 0, 49, 25, 8, 40, 1944, "9cce0ebd673333931498eac51975b8eae1a77f794f88f8d29410fcd13d9a4a72"),
    (3, 3, "product", 1, 50, 26, 8, 49, 2875, "de2f9232b2bf533dcd5bbd0ee95ae43ba847ee2d57aa734fa284488921029378"),
    (3, 3, "cross_rows", 0, 7, 5, 1, 5, 243, "3beedcd067e6413d1f2fa51299d570a9da03b68cb555452a6f2ca2acacd8795e"),
    (3, 3, "cross_rows", 1, 8, 6, 1, 7, 376, "4f04957bd7fd58b39dd7074aafea9a14beafc1982e5c3687d2bc3a156405975f"),
    (3, 3, "cross_cols", 0, 7, 5, 1, 5, 243, "0e0f45f467ef229a4272a991edc5bbad3ae61e102aefa07e55896d228412caa2"),
    (3, 3, "cross_cols", 1, 8, 6, 1, 7, 376, "2e102cc5a7f733573a48ea75547768caae14f62f10a9f27d3e07b790bfe57290"),
]  # fmt: skip


def digest(ids: Tensor) -> str:
    """Of the entries row by row as little-endian 32-bit numbers."""
    return hashlib.sha256(ids.to(torch.int32).numpy().astype("<i4").tobytes()).hexdigest()


def built(op: str, **options: float | int | str) -> Tensor:
    return table(TableKey(op, tuple(sorted(options.items()))))


@pytest.mark.parametrize("case", BUCKETS, ids=lambda c: "-".join(map(str, c[:4])))
def test_buckets(case: tuple[int, int, str, int, int, int, int, int, int, str]) -> None:
    h, w, method, skip, buckets, used, least, most, total, sha = case
    plain = torch.tensor(bucket_table(method, h, w, 1.9, skip))
    held = built("bucket_index", h=h, w=w, method=method, ratio=1.9, skip=skip)
    assert bucket_count(method, 1.9, skip) == buckets
    for ids in (plain, held):
        assert (len(ids.unique()), int(ids.min()), int(ids.max())) == (used, least, most)
        assert (int(ids.sum()), digest(ids)) == (total, sha)


def test_readable_bucket_tables() -> None:
    def rows(method: str, skip: int, side: int = 3) -> Tensor:
        return built("bucket_index", h=side, w=side, method=method, ratio=1.9, skip=skip)

    product = rows("product", 1)
    assert product[0].tolist() == [49] * 10
    assert product[1].tolist() == [49, 24, 23, 22, 17, 16, 15, 10, 9, 8]
    assert product[2].tolist() == [49, 25, 24, 23, 18, 17, 16, 11, 10, 9]
    assert product[5].tolist() == [49, 32, 31, 30, 25, 24, 23, 18, 17, 16]
    assert product[9].tolist() == [49, 40, 39, 38, 33, 32, 31, 26, 25, 24]
    assert rows("euclidean", 0)[0].tolist() == [3, 4, 5, 4, 4, 5, 5, 5, 5]
    assert rows("quantised", 0)[0].tolist() == [3, 4, 6, 4, 5, 6, 6, 6, 6]
    assert rows("cross_rows", 0)[0].tolist() == [3, 3, 3, 2, 2, 2, 1, 1, 1]
    large = rows("product", 1, 14)
    assert large[1, 1:8].tolist() == [24, 23, 22, 22, 21, 21, 21]
    assert large[1, 1::14][:7].tolist() == [24, 17, 10, 10, 3, 3, 3]
    # Mini-DeiT's, without a class token.
    first = [24, 23, 22, 22, *[21] * 10, 17, 16]
    assert rows("product", 0, 14)[0, :16].tolist() == first


def test_histogram_of_product_buckets() -> None:
    ids = built("bucket_index", h=14, w=14, method="product", ratio=1.9, skip=1)
    line = [55, 23, 13, 14, 13, 23, 55]
    wanted = [a * b for a in line for b in line] + [2 * 197 - 1]
    assert ids.flatten().bincount(minlength=50).tolist() == wanted


@pytest.mark.parametrize(("ratio", "unused", "skip"), [(2.5, 40, 0), (3.0, 48, 0)])
def test_buckets_that_nothing_reads(ratio: float, unused: int, skip: int) -> None:
    ids = built("bucket_index", h=14, w=14, method="product", ratio=ratio, skip=skip)
    assert bucket_count("product", ratio, skip) - len(ids.unique()) == unused


# EfficientViT and TinyViT: rows of distances.


@pytest.mark.parametrize(
    ("side", "total", "sha"),
    [
        (4, 1600, "d98efe31b24e569e44d6bae48a7183511cdb45612f7060714908980b5aaa6114"),
        (7, 43904, "51b0e051f75611ec235b074f0cf47694f75c62f915f93962e742ec4aa20d8266"),
        (14, 2675400, "45a9bc0419f2bf78fdf07f43c5fdcf2146b0eebe9bd001f17c92efb788029210"),
    ],
)
def test_distances(side: int, total: int, sha: str) -> None:
    ids = built("offset_index", h=side, w=side, kind="absolute")
    assert (tuple(ids.shape), int(ids.sum()), digest(ids)) == ((side**2, side**2), total, sha)


def test_a_network_holds_these_tables() -> None:
    model = Supernet(load("efficientvit.space:efficientvit_m5"))
    held = {n: t for n, t in model.named_buffers() if n.endswith("attention_bias_idxs")}
    assert len(held) == 8
    assert Counter(tuple(t.shape) for t in held.values()) == {(49, 49): 4, (16, 16): 4}
    assert {digest(t)[:8] for t in held.values()} == {"51b0e051", "d98efe31"}


# Swin and S3: offsets with a sign, and seams.


@pytest.mark.parametrize("window", [7, 12, 14])
def test_offsets(window: int) -> None:
    ids = built("offset_index", h=window, w=window, kind="signed")
    cells = [(y, x) for y in range(window) for x in range(window)]
    wanted = [
        [(y - v + window - 1) * (2 * window - 1) + x - u + window - 1 for v, u in cells]
        for y, x in cells
    ]
    assert ids.tolist() == wanted


def test_seams_of_s3() -> None:
    graph = load("s3.space:s3_t")
    masks = {p: table(k) for p, k in labelled_tables(graph).items() if k.op == "shift_mask"}
    assert [p for p in masks] == ["layers[0].blocks[1].attn_mask", "layers[1].blocks[1].attn_mask"]
    first, second = masks.values()
    assert set(first.unique().tolist()) == {0.0, -100.0}
    assert round(100 * float((first != 0).float().mean()), 2) == 11.87
    assert (first.numel(), second.numel()) == (64 * 49 * 49, 16 * 49 * 49)
    small = load("s3.space:s3_s")
    sizes = [table(k).numel() for k in labelled_tables(small).values() if k.op == "shift_mask"]
    assert sizes == [16 * 196 * 196, 4 * 196 * 196]


def test_a_seam_by_the_published_slices() -> None:
    """Nine regions by three slices an axis; 0 where both tokens are of one, else -100."""
    side, window, shift = 28, 7, 3
    region = torch.zeros(side, side)
    parts = (slice(0, -window), slice(-window, -shift), slice(-shift, None))
    for number, (rows, columns) in enumerate((r, c) for r in parts for c in parts):
        region[rows, columns] = number
    cells = region.reshape(4, 7, 4, 7).transpose(1, 2).reshape(16, 49)
    different = cells[:, None] != cells[:, :, None]
    wanted = torch.where(different, -100.0, 0.0)
    found = built("shift_mask", h=side, w=side, window=window, shift=shift)
    assert torch.equal(found.squeeze(1), wanted)


# AutoFormer: clipped offsets.


def test_clipped_offsets_of_autoformer() -> None:
    """At 14 x 14 rows 1 and 29 of 30 are never read; row 0 serves pairs with the class token."""
    for axis in (0, 1):
        ids = built("clipped_index", h=14, w=14, axis=axis, reach=14, skip=1)
        assert set(ids.flatten().tolist()) == {0, *range(2, 29)}
        assert set(ids[0].tolist()) == set(ids[:, 0].tolist()) == {0}
    down = built("clipped_index", h=14, w=14, axis=0, reach=14, skip=1)
    assert down[1, 1 + 14 * 3].item() == 3 + 15  # the key's row less the query's
    assert built("clipped_index", h=20, w=20, axis=1, reach=14, skip=0).max() == 29
