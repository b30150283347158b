// Three of the seeded slow kernels: what Triton does not let one write. What each does wrong is in labels.json.

// A block of 32x32 threads walks over a tile in shared memory.
extern "C" __global__ void k02(const float *x, float *y, int rounds) {
    __shared__ float tile[32 * 32];
    int column = threadIdx.x, row = threadIdx.y;
    size_t at = (size_t)blockIdx.x * 1024 + row * 32 + column;
    tile[row * 32 + column] = x[at];
    __syncthreads();
    float sum = 0.0f;
    for (int i = 0; i < rounds; i++) sum += tile[column * 32 + ((row + i) & 31)];
    y[at] = sum;
}

// Sums of strided columns; the launch asks for more shared memory than the block uses.
extern "C" __global__ void k09(const float *x, float *y, int steps, int stride) {
    extern __shared__ float room[];
    size_t at = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    float sum = 0.0f;
#pragma unroll 1
    for (int i = 0; i < steps; i++) sum += x[at + (size_t)i * stride];
    room[threadIdx.x] = sum;
    y[at] = room[threadIdx.x];
}

// Arithmetic in blocks of 1,024 threads, two of which a multiprocessor holds.
extern "C" __global__ void __launch_bounds__(1024, 2) k06(const float *x, float *y, int rounds) {
    size_t at = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    float a = x[at], b = a + 1.0f;
    for (int i = 0; i < rounds; i++) {
        a = __sinf(a) * b;
        b = b * 0.999f + a;
    }
    y[at] = a + b;
}
