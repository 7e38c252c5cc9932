/* Sums that are the same in any order: those of a product's parts that are added to a row's residual. Inside gpu/cuda/ only.
 *
 * A product is summed in chunks of FIXED_CHUNK inputs, each in single precision and in one order; a chunk's sum becomes a
 * whole number of 2⁻²⁷, and whole numbers are added. So it does not matter which lanes, warps and blocks have which chunks
 * and who is first: the bits are the same. The rounding of a chunk, 2⁻²⁸ at most, is a sixteenth of that of a residual near 1;
 * the bound is where half floats end, with which the published models are run.
 *
 * A chunk that is no number or not below FIXED_BOUND is not hidden: the low bits of a sum count such chunks, and a sum with
 * any of them is a NaN. They cannot overflow, nor can the others, for there are fewer than FIXED_FLAWS chunks. */
#ifndef CAPTIOND_GPU_CUDA_FIXED_CUH
#define CAPTIOND_GPU_CUDA_FIXED_CUH

#include "gpu/cuda/device.cuh"

#define FIXED_CHUNK 16
#define FIXED_ONE   134217728.0f /* 2²⁷ */
#define FIXED_BOUND 65536.0f     /* 2¹⁶: FIXED_FLAWS of them, and the bits below, just fill 63 bits */
#define FIXED_SHIFT 10
#define FIXED_FLAWS (1 << FIXED_SHIFT)

static __device__ __forceinline__ long long to_fixed(float chunk)
{
    return fabsf(chunk) < FIXED_BOUND ? llrintf(chunk * FIXED_ONE) << FIXED_SHIFT : 1;
}

static __device__ __forceinline__ float from_fixed(long long sum)
{
    return sum & (FIXED_FLAWS - 1) ? NAN : (float)(sum >> FIXED_SHIFT) * (1.0f / FIXED_ONE);
}

#endif
