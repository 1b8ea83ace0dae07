"""Kernel weights and multiply-accumulates of the papers' networks by arithmetic alone, without any framework.

A network is a list of kernels `(weights, positions)`: how many weights, applied in how many places. With `alpha`, the
widths of all stages but the first are divided, as in Adjoined Networks.
"""

WIDTHS = (64, 128, 256, 512)
BASIC = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
BOTTLENECK = {50: (3, 4, 6, 3), 100: (6, 8, 12, 6), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def totals(kernels):
    """Sum of the weights and sum of the multiply-accumulates."""
    return sum(weights for weights, _ in kernels), sum(weights * positions for weights, positions in kernels)


def cifar(depth, alpha=1, shortcut="B", classes=10):
    """The narrow 6n + 2 networks at 32 pixels: in closed form, stage by stage."""
    blocks = (depth - 2) // 6
    kernels, below = [(9 * 3 * 16, 32**2)], 16
    for width, size in ((16, 32), (32 // alpha, 16), (64 // alpha, 8)):
        kernels += [(9 * below * width, size**2), ((2 * blocks - 1) * 9 * width**2, size**2)]
        if size < 32 and shortcut == "B":
            kernels.append((below * width, size**2))
        below = width
    return totals([*kernels, (below * classes, 1)])


def wide(depth, classes=10):
    """The wide networks at 32 pixels."""
    return totals([(9 * 3 * 64, 32**2), *_stages(depth, size=32), _dense(depth, classes)])


def imagenet(depth, classes=1000):
    """Four stages behind a 7x7 stem at 224 pixels."""
    return totals([(49 * 3 * 64, 112**2), *_stages(depth, size=56), _dense(depth, classes)])


def xresnet(depth, alpha=1, classes=1000, pixels=224):
    """Four stages behind three 3x3 convolutions."""
    half = pixels // 2
    stem = [(9 * ins * outs, half**2) for ins, outs in ((3, 32), (32, 64), (64, 64))]
    return totals([*stem, *_stages(depth, size=pixels // 4, alpha=alpha), _dense(depth, classes, alpha)])


def _dense(depth, classes, alpha=1):
    return (512 // alpha * (4 if depth in BOTTLENECK else 1) * classes, 1)


def _stages(depth, size, alpha=1):
    counts = BOTTLENECK.get(depth) or BASIC[depth]
    below = 64
    for stage, (count, width) in enumerate(zip(counts, WIDTHS, strict=True)):
        width //= alpha if stage else 1
        outs = 4 * width if depth in BOTTLENECK else width
        inner = size if not stage else -(-size // 2)
        for block in range(count):
            ins = outs if block else below
            before = inner if block else size  # a 1x1 convolution in front of the stride sees the larger image
            if depth in BOTTLENECK:
                yield from ((ins * width, before**2), (9 * width**2, inner**2), (width * outs, inner**2))
            else:
                yield from ((9 * ins * width, inner**2), (9 * width**2, inner**2))
            if ins != outs or before != inner:
                yield ins * outs, inner**2
        below, size = outs, inner
