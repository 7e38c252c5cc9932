#!/usr/bin/env python3
"""A model of the CUDA engine's time: prints Markdown tables. What it prints is predicted unless it says measured.

usage: tools/bench/cuda_time.py

The shapes are those of gpu/audio_encoder.c and gpu/text_decoder.c, the launches those of gpu/cuda/. docs/cuda-time.md says
where the constants come from and what is concluded.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Model:
    name: str
    audio_layers: int
    text_layers: int
    state: int
    heads: int
    mels: int = 80
    vocab: int = 51865


TINY, BASE, SMALL = Model("tiny", 4, 4, 384, 6), Model("base", 6, 6, 512, 8), Model("small", 12, 12, 768, 12)
TURBO = Model("turbo", 32, 4, 1280, 20, 128, 51866)
FRAMES, MEL_FRAMES, TOKENS = 1500, 3000, 90


@dataclass
class Gpu:
    name: str
    multiprocessors: int
    gemm: float  # FLOP/s of a large product in half floats with single sums
    bandwidth: float  # bytes/s
    l2: float  # bytes/s
    fma: float  # single multiply-adds/s
    clock: float


H100 = Gpu("H100", 132, 798e12, 3.0e12, 5.5e12, 33.5e12, 1.7e9)

# Fitted to whisper.cpp's published figures, see below and docs/cuda-time.md.
KERNEL_S = 1.39e-6  # from the end of a kernel to that of the next, when it does nothing
# Assumed: a round of loads that depends on the one before, from memory or the second-level cache.
ROUND_S = 0.6e-6


# Assumed: a round of loads from the second-level cache, or a nearer one, inside a running kernel; a row's norm (two sums over
# a warp one after the other).
L2_ROUND_S, NORM_S = 0.2e-6, 0.2e-6
# linear_rows on tensor cores, gpu/cuda/rows_mma.cu, in engines for as many slots: its constants and registers (tests/cuda/compiled).
SLOTS_MANY, TENSOR_OUTS, TENSOR_REGISTERS, SHARED_MOST = 16, 32, {8: 80, 16: 96, 32: 120, 64: 168}, 227 << 10
# Assumed: two barriers and the adding of sums for each 32 outputs; operations for a value that is split.
TENSOR_TURN_S, SPLIT_OPERATIONS = 0.25e-6, 12


def encoder_flops(m):
    """Products of the encoder with the decoder's cross keys and values."""
    linear = 2 * FRAMES * 12 * m.state * m.state + 4 * FRAMES * FRAMES * m.state
    conv = 2 * MEL_FRAMES * 3 * m.mels * m.state + 2 * FRAMES * 3 * m.state * m.state
    return m.audio_layers * linear + conv + m.text_layers * 2 * FRAMES * 2 * m.state * m.state


HALF, INT8 = 2, 1 + 4 / 64  # bytes of a weight: 64 of 8 bits share a unit


def token_bytes(m, size=HALF):
    """Weights, embedding as output layer, cross keys and values, which are half floats."""
    weights = m.text_layers * 14 * m.state**2 * size
    return weights, m.vocab * m.state * size, m.text_layers * 2 * FRAMES * m.state * 2


# --- the check: whisper.cpp on an RTX 5090 -------------------------------------------------------------------------

PUBLISHED = {"tiny": (1.29, 0.31), "base": (2.15, 0.44), "small": (5.54, 0.83), "turbo": (21.4, 0.49)}  # ms
WCPP_BANDWIDTH = 1.5e12  # of 1.79e12
# Kernels a layer of its graphs with flash attention, about: norm, scale and shift apart, bias and residual apart. What the
# count is off by, the fitted time of a kernel takes up.
WCPP_DECODER_LAYER, WCPP_ENCODER_LAYER, WCPP_CROSS_LAYER, WCPP_REST = 35, 30, 6, 12
WCPP_HOST_S = 63e-6  # logits to the host and what it does with them: fitted
WCPP_ENCODE_RATE = 120e12  # fitted
WCPP_ENCODE_S = 0.73e-3  # fitted: upload, host, graph


def whisper_cpp(m):
    launches = m.audio_layers * WCPP_ENCODER_LAYER + m.text_layers * WCPP_CROSS_LAYER + WCPP_REST
    encode = WCPP_ENCODE_S + launches * KERNEL_S + encoder_flops(m) / WCPP_ENCODE_RATE
    nodes = m.text_layers * WCPP_DECODER_LAYER + 6
    token = WCPP_HOST_S + nodes * KERNEL_S + sum(token_bytes(m)) / WCPP_BANDWIDTH
    return encode, token


# --- ours ------------------------------------------------------------------------------------------------------------


def blocks_time(gpu, blocks, per_sm, flops, rate):
    """Blocks that run per_sm at a time on each multiprocessor: a part of a wave costs a wave."""
    waves = -(-blocks // (gpu.multiprocessors * per_sm))
    return waves * gpu.multiprocessors * per_sm / blocks * flops / rate


def gemm(gpu, rows, outs, n_in):
    """libcublas, tiles of 128 x 128, and finish_kernel on its f32 result."""
    tiles = -(-rows // 128) * -(-outs // 128)
    product = blocks_time(gpu, tiles, 1, 2 * rows * outs * n_in, gpu.gemm)
    traffic = (rows * n_in * 2 + outs * n_in * 2 + rows * outs * (4 + 4 + 4)) / gpu.bandwidth
    return 2 * KERNEL_S + ROUND_S + max(product, traffic)


# Measured on an H100, FLOP/s of linear_kernel and of attention_kernel, by how many windows of tiny go together (docs/cuda-time.md).
OWN_RATE, ATTENTION_RATE = {1: 98e12, 16: 213e12}, {1: 107e12, 4: 174e12, 16: 242e12}
MEL_S = 29.3e-6  # measured: a window's spectrogram and its scaling, with samples that are there


def rate_of(rates, n):
    return rates[max(k for k in rates if k <= n)]


def own_gemm(gpu, rows, outs, n_in):
    """linear_kernel: mma.sync, and nothing after it."""
    return KERNEL_S + 2 * rows * outs * n_in / rate_of(OWN_RATE, rows // FRAMES)


WINDOWS_MAX, TOGETHER_STATE_MAX = 16, 512  # gpu/engine.h, gpu/whisper.c


def encode_parts(gpu, m, n=1, slots=1):
    """[(what, launches, seconds)] of n windows that go together, as audio_encoder.c submits them in an engine of so many slots:
    with more than one slot all products are our own, if the model is small."""
    d, rows = m.state, n * FRAMES
    own = slots > 1 and d <= TOGETHER_STATE_MAX
    product, launches = (own_gemm, 1) if own else (gemm, 2)
    norm = KERNEL_S + 2 * ROUND_S + rows * d * 6 / gpu.bandwidth
    attention = KERNEL_S + n * 4 * FRAMES * FRAMES * d / rate_of(ATTENTION_RATE, n)
    layers = m.audio_layers
    upload = 1.92e6 / 25e9 if n == 1 else 0.0  # over PCIe; of several windows meanwhile
    return [
        ("log-mel", 2 * n, n * MEL_S + upload),
        ("convolutions", 2, own_gemm(gpu, n * MEL_FRAMES, d, 3 * m.mels) + own_gemm(gpu, rows, d, 3 * d)),
        ("layer norms", 2 * layers + 1, (2 * layers + 1) * norm),
        ("QKV, output, MLP", 4 * launches * layers,
         layers * (product(gpu, rows, 3 * d, d) + product(gpu, rows, d, d) + product(gpu, rows, 4 * d, d)
                   + product(gpu, rows, d, 4 * d))),
        ("attention", layers, layers * attention),
        ("cross keys and values", launches * m.text_layers, m.text_layers * product(gpu, rows, 2 * d, d)),
    ]


def encode_windows(gpu, m, n):
    """Seconds for n windows in an engine of n slots."""
    group = min(n, WINDOWS_MAX) if m.state <= TOGETHER_STATE_MAX else 1
    return n / group * total(encode_parts(gpu, m, group, n))


def tensor_linear(gpu, n, n_in, n_out, norm):
    """linear_rows_mma_kernel: seconds. The launch about as rows_mma.cu decides on it."""
    whole, tiles = -(-n_in // 128) * 128, -(-n_out // TENSOR_OUTS)

    def room(rows):
        return rows * (4 * (whole + 32) + 16 * (TENSOR_OUTS + 4))

    rows = next(r for r in (8, 16, 32, 64) if r >= n or r == 64)
    while rows > 8 and (tiles * -(-n // rows) < gpu.multiprocessors or room(rows) > SHARED_MOST):
        rows //= 2
    groups, at_once = -(-n // rows), min(65536 // (256 * TENSOR_REGISTERS[rows]), SHARED_MOST // room(rows))
    columns = min(tiles, max(1, at_once * gpu.multiprocessors // groups))
    blocks, turns = -(-columns * groups // gpu.multiprocessors), -(-tiles // columns)  # of a multiprocessor, of a block
    # A value is two half floats, multiplied one after the other; 32 outputs read their rows from shared memory twice.
    product = max(2 * 2 * rows * TENSOR_OUTS * n_in / (gpu.gemm / 3 / gpu.multiprocessors),
                  2 * rows * n_in * 4 / (128 * gpu.clock))
    split = rows * n_in * SPLIT_OPERATIONS / (gpu.fma / gpu.multiprocessors)
    # Rows from the second-level cache, read again for the variance and for the result; weights 512 at a time of each output.
    rounds = ROUND_S + norm * (2 * L2_ROUND_S + NORM_S) + (-(-n_in // 512) - 1) * ROUND_S + L2_ROUND_S
    work = blocks * (split + turns * (product + TENSOR_TURN_S))
    weights = 2 * n_in * n_out
    again = (groups - 1) * weights + columns * n * n_in * 4
    return KERNEL_S + rounds + max(work, weights / gpu.bandwidth + again / gpu.l2)


def tensor_layer(gpu, m, n):
    """The linear layers of a layer, as text_decoder.c submits them."""
    d = m.state
    shapes = (d, 3 * d, 1), (d, d, 0), (d, d, 1), (d, d, 0), (d, 4 * d, 1), (4 * d, d, 0)
    return sum(tensor_linear(gpu, n, *shape) for shape in shapes)


def step_parts(gpu, m, n):
    """One decoding step of n slots at half of the text: [(what, launches, bytes, seconds)]."""
    d, layers = m.state, m.text_layers
    weights, logits, cross = token_bytes(m)

    def launches(k, rounds, seconds):
        return k * (KERNEL_S + rounds * ROUND_S) + seconds

    def skinny(k, size):
        # A multiply-add of linear_rows needs four bytes of shared memory: a quarter of the arithmetic's rate.
        return launches(k, 2, max(size / gpu.bandwidth, n * size / 2 / (gpu.fma / 4)))

    if n < SLOTS_MANY:
        linear, output = skinny(6 * layers, weights), skinny(1, logits)
    else:
        linear, output = layers * tensor_layer(gpu, m, n), tensor_linear(gpu, n, d, m.vocab, 1)
    past = n * layers * 2 * (TOKENS // 2) * d * 2
    return [
        ("linear_rows", 6 * layers, weights, linear),
        ("self-attention", layers, past, launches(layers, 3, past / gpu.bandwidth)),
        ("cross-attention", layers, n * cross, launches(layers, 3, n * cross / gpu.bandwidth)),
        ("logits", 1, logits, output),
        ("select", 1, n * m.vocab * 4, launches(1, 3, n * m.vocab * 4 / gpu.l2)),
        ("rows, embedding, advance, WHILE", 4, n * d * 6, launches(4, 1, 0.0)),
    ]


def total(parts):
    return sum(p[-1] for p in parts)


# --- a step of up to eight rows in one kernel, gpu/cuda/step.cu: phases, between which all blocks meet ------------------

# Assumed: a barrier of the grid, a product's own sum and what is done with it.
BARRIER_S, PRODUCT_S = 1.0e-6, 0.15e-6
# Fitted to the measured step of tiny with one row: what a phase takes beside all that the model counts, which is instructions
# that wait for one another. It was 5.1 when the kernel ran for the first time.
PHASE_S = 1.9e-6
L2_BYTES, FUSED_ROWS, TEAMS, CROSS_PART = 50e6, 2, 4, 128
ADDS = 1 / 4  # assumed: additions of 64 bits in the second-level cache, as a part of its bandwidth


def phases(gpu, m, n, barrier=BARRIER_S, l2_round=L2_ROUND_S, size=HALF):
    """[(phase, how often, rounds of loads, bytes, seconds)] of a step of n rows at half of the text. A block's first weights
    and keys are in its shared memory, the others in the second-level cache when its phase begins: they were asked for
    before the barrier. Additions to sums take a round before the barrier, and their bytes."""
    d, layers, fused = m.state, m.text_layers, n <= FUSED_ROWS
    groups, shares, parts = -(-n // TEAMS), d // 64, -(-FRAMES // CROSS_PART)
    past = n * 2 * (TOKENS // 2) * d * 2
    window = n * 2 * FRAMES * d * 2
    logits = m.vocab * d * size
    soon = min(logits, L2_BYTES / 4)  # brought in during the other phases
    # Every block reads the whole residual: x, the sums that have not been added to it yet, and their bias.
    residual = gpu.multiprocessors * (n * d * (4 + 8) + 4 * d)
    # Each part of a window makes its head's query: the weight is read as often as there are parts.
    query = size * d * d * (n * parts if fused else 1)
    first_units = n * m.heads * parts <= gpu.multiprocessors  # a block's first one is all that it has

    def linear(name, n_in, n_out, rows=residual):
        return name, layers, 1, size * n_in * n_out + rows, 0, NORM_S * (rows is residual) + PRODUCT_S

    # Every share of the outputs attends again, or joins the parts again.
    rows = [
        linear("QKV", d, 3 * d),
        ("self-attention, output", layers, 2 if fused else 4, past * shares + groups * size * d * d, 8 * n * m.heads * d,
         2 * NORM_S + PRODUCT_S),
        ("cross-attention and its queries" if fused else "cross-attention", layers, (1 if first_units else 4) if fused else 2,
         window + (query + residual) * fused, 0, 2 * NORM_S + (NORM_S + PRODUCT_S) * fused),
        ("joining its parts, output", layers, 2, n * m.heads * parts * 66 * 4 * shares + groups * size * d * d,
         8 * n * m.heads * d, NORM_S + PRODUCT_S),
        ("MLP", layers, 2, size * 8 * d * d + residual, 8 * n * (4 * d // 16) * d, NORM_S + 2 * PRODUCT_S),
        ("logits, parts of select", 1, 1, logits, 0, NORM_S + PRODUCT_S + residual / gpu.l2),
        ("select, advance, embedding, rows", 1, 6, n * m.vocab // 32 * 24, 0, 3 * NORM_S),
    ]
    if not fused:
        rows.insert(2, linear("cross-attention's queries", d, d))
        rows[5:6] = [linear("MLP up", d, 4 * d), linear("MLP down", 4 * d, d, gpu.multiprocessors * n * 4 * d * 4)]
    stream = max(logits / gpu.l2, (logits - soon) / gpu.bandwidth)
    arithmetic = n * sum(token_bytes(m)[:2]) / 2 / (gpu.fma / 4)  # as in linear_rows, beside the bytes
    out = [(what, k, r, b + a, k * (barrier + r * l2_round + s + (stream if "logits" in what else (b + a / ADDS) / gpu.l2)))
           for what, k, r, b, a, s in rows]
    # What it takes at least: all bytes from memory, or the arithmetic.
    floor = max((sum(token_bytes(m, size)[:2]) + n * token_bytes(m)[2]) / gpu.bandwidth, arithmetic)
    return out, max(total(out), floor), max(total(out) + sum(p[1] for p in out) * PHASE_S, floor)


MEASURED_STEP = {(TINY, 1): 101, (TINY, 2): 122, (TINY, 4): 155, (TINY, 8): 209, (BASE, 1): 150, (BASE, 2): 180, (BASE, 4): 233,
                 (BASE, 8): 317, (TINY, 16): 270, (TINY, 64): 496, (BASE, 16): 437, (BASE, 64): 854}
MEASURED_ENCODE = {1: 583, 16: 249, 64: 238}


def main():
    print("## Check: whisper.cpp on an RTX 5090\n")
    print("| model | encode, published | *predicted* | | token, published | *predicted* | |\n|---|---|---|---|---|---|---|")
    worst = 0.0
    for m in (TINY, BASE, SMALL, TURBO):
        encode, token = (1e3 * x for x in whisper_cpp(m))
        errors = encode / PUBLISHED[m.name][0] - 1, token / PUBLISHED[m.name][1] - 1
        told = ["fitted" if fit else f"{100 * e:+.0f} %" for e, fit in zip(errors, (m in (TINY, TURBO), m in (TINY, BASE)))]
        worst = max([worst, *(abs(e) for e, t in zip(errors, told) if t != "fitted")])
        print(f"| {m.name} | {PUBLISHED[m.name][0]:.2f} ms | {encode:.2f} ms | {told[0]} "
              f"| {PUBLISHED[m.name][1]:.2f} ms | {token:.2f} ms | {told[1]} |")
    print(f"\nWorst: {100 * worst:.0f} %.\n")
    for m in (TINY, BASE):
        print(f"## {m.name} on an H100, *predicted*\n\n| encoder, one window | launches | µs |\n|---|---|---|")
        for what, launches, s in encode_parts(H100, m):
            print(f"| {what} | {launches} | {1e6 * s:.0f} |")
        print("\n| encoder, µs a window | one slot | 16 slots, 1 window | 4 together | 16 together |\n|---|---|---|---|---|")
        columns = [[p[-1] / n for p in encode_parts(H100, m, n, slots)] for n, slots in ((1, 1), (1, 16), (4, 16), (16, 16))]
        for what, *times in zip([p[0] for p in encode_parts(H100, m)] + ["all"], *(c + [sum(c)] for c in columns)):
            print(f"| {what} | " + " | ".join(f"{1e6 * s:.0f}" for s in times) + " |")
        print("\n| step | launches | MB, 1 slot | µs, 1 slot | MB, 64 slots | µs, 64 slots |\n|---|---|---|---|---|---|")
        for one, many in zip(step_parts(H100, m, 1), step_parts(H100, m, 64)):
            print(f"| {one[0]} | {one[1]} | {one[2] / 1e6:.1f} | {1e6 * one[3]:.1f} | {many[2] / 1e6:.1f} | {1e6 * many[3]:.1f} |")
        print(f"| all | {sum(p[1] for p in step_parts(H100, m, 1))} | | {1e6 * total(step_parts(H100, m, 1)):.0f} | "
              f"| {1e6 * total(step_parts(H100, m, 64)):.0f} |\n")
        parts, least, seconds = phases(H100, m, 1)
        print("| step of one row in one kernel | times | rounds | MB each | µs in all |\n|---|---|---|---|---|")
        for what, k, r, b, s in parts:
            print(f"| {what} | {k} | {r} | {b / 1e6:.1f} | {1e6 * s:.1f} |")
        print(f"| all | {sum(p[1] for p in parts)} | | | {1e6 * least:.0f} |")
        print(f"| with {1e6 * PHASE_S:.1f} µs a phase beside | | | | {1e6 * seconds:.0f} |\n")
    print("## Beside what was measured on an H100: µs a step\n")
    print("| | rows | *predicted*, least | *predicted* | measured | |\n|---|---|---|---|---|---|")
    for (m, n), measured in MEASURED_STEP.items():
        least, seconds = phases(H100, m, n)[1:] if n <= 8 else (total(step_parts(H100, m, n)),) * 2
        print(f"| {m.name}, {'one kernel' if n <= 8 else 'a graph'} | {n} | {1e6 * least:.0f} | {1e6 * seconds:.0f} | {measured:.0f} "
              f"| {'fitted' if (m, n) == (TINY, 1) else f'{100 * (1e6 * seconds / measured - 1):+.0f} %'} |")
    print("\n## Beside what was measured on an H100: the encoder, µs a window\n")
    print("| | *predicted* | measured | |\n|---|---|---|---|")
    for n, measured in MEASURED_ENCODE.items():
        seconds = encode_windows(H100, TINY, n) / n if n > 1 else total(encode_parts(H100, TINY))
        print(f"| tiny, {n} | {1e6 * seconds:.0f} | {measured:.0f} | {100 * (1e6 * seconds / measured - 1):+.0f} % |")
    print("\n## Against the aims, H100, windows of 30 s with 90 tokens, *predicted*\n")
    print("| | aim | least | with the fitted constant | measured |\n|---|---|---|---|---|")
    for m, aim, measured in ((TINY, 6, 9.9), (BASE, 10, 14.9)):
        encode, (_, least, seconds) = total(encode_parts(H100, m)), phases(H100, m, 1)
        print(f"| {m.name}, batch 1 | {aim} ms | {1e3 * (encode + TOKENS * least):.1f} ms | {1e3 * (encode + TOKENS * seconds):.1f} ms "
              f"| {measured} ms |")
    window = encode_windows(H100, TINY, 64) + TOKENS * total(step_parts(H100, TINY, 64))
    print(f"| tiny, batch 64 | 25,000 × | {64 * 30 / window:,.0f} × | | 31,552 × |")


if __name__ == "__main__":
    main()
