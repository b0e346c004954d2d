// A picture in device memory becomes the network's input in one pass: resize, colour order, value, layout, type.
//
// All of it is whole-number work and look-up, so that the result is the processor's, bit for bit. The host works
// out once per picture size what needs real numbers (edge/cuda/rule.py holds the same rule in NumPy):
//   taps    for each output column and row the two source columns and rows it lies between, with their weights
//   table   for each channel and pixel value the network's value in the network's type, as bits
//
// One thread makes one output pixel in all its channels. Threads of a warp write neighbouring addresses.
// No header is included, so NVRTC, nvcc and (for tests) a C++ compiler with tests/host_cuda.h all take this file.

// One output column or row: source pixels and their weights in units of 1/2048, as in cv2.resize INTER_LINEAR.
struct __align__(16) Tap {
    int first, second, first_weight, second_weight;
};

// What one launch works on. Pointers first and an even number of ints: no padding between or after them, so the
// host can pack it as a flat list (edge/cuda/kernels.py, ARGUMENTS).
struct Job {
    const unsigned char* pixels;   // first row of the picture; of nv12 the luma plane
    const unsigned char* chroma;   // nv12: U and V interleaved, one pair for 2 × 2 pixels
    const unsigned char* levels;   // gray16: the grey level, 0–255, of each of 65,536 stored values
    void* out;                     // channels × out_height × out_width words
    const Tap* columns;            // `width` of them
    const Tap* rows;               // `height` of them
    const void* table;             // channels × 256 words
    int pitch, chroma_pitch;       // bytes from a row to the next
    int left, top, width, height;  // the part of the output that the picture fills
    int out_width, out_height;
    int reversed;                  // 1: the network's channel order is that of the picture, BGR, backwards
    int pad;                       // grey level outside the picture
    int picture_width, picture_height;  // not used here: they tell whoever watches launches what is read
};
static_assert(sizeof(Job) == 7 * 8 + 12 * 4, "the host packs a Job without gaps");

// --- Sources: each reads the pixel of a row and column as CHANNELS grey levels (B, G, R or grey).
// Offsets fit 32 bits: the host refuses pictures of 2 GiB and more.

struct Bgr8 {
    static constexpr int CHANNELS = 3;
    static __device__ __forceinline__ void read(const Job& job, int row, int column, int* level) {
        const unsigned char* pixel = job.pixels + row * job.pitch + column * 3;
        level[0] = pixel[0];
        level[1] = pixel[1];
        level[2] = pixel[2];
    }
};

struct Gray8 {
    static constexpr int CHANNELS = 1;
    static __device__ __forceinline__ void read(const Job& job, int row, int column, int* level) {
        level[0] = job.pixels[row * job.pitch + column];
    }
};

struct Gray16 {
    static constexpr int CHANNELS = 1;
    static __device__ __forceinline__ void read(const Job& job, int row, int column, int* level) {
        const unsigned char* line = job.pixels + row * job.pitch;
        level[0] = job.levels[reinterpret_cast<const unsigned short*>(line)[column]];
    }
};

__device__ __forceinline__ int clamp_to_byte(int value) {
    return value < 0 ? 0 : value > 255 ? 255 : value;
}

// BT.601, limited range, in units of 1/2^20: OpenCV's COLOR_YUV2BGR_NV12.
struct Nv12 {
    static constexpr int CHANNELS = 3;
    static __device__ __forceinline__ void read(const Job& job, int row, int column, int* level) {
        const unsigned char* pair = job.chroma + (row >> 1) * job.chroma_pitch + (column & ~1);
        const int u = pair[0] - 128, v = pair[1] - 128;
        const int luma = job.pixels[row * job.pitch + column] - 16;
        const int y = (luma < 0 ? 0 : luma) * 1220542 + (1 << 19);
        level[0] = clamp_to_byte((y + 2116026 * u) >> 20);
        level[1] = clamp_to_byte((y - 409993 * u - 852492 * v) >> 20);
        level[2] = clamp_to_byte((y + 1673527 * v) >> 20);
    }
};

// --- The rule of cv2.resize INTER_LINEAR on uint8: 11-bit weights, columns first and 4 bits cut off, rows and
// 16 bits cut off, the sum rounded. Of a picture that keeps its size, the weights 2048 and 0 return each pixel unchanged.

template <class Source>
__device__ __forceinline__ void interpolate(const Job& job, const Tap& column, const Tap& row, int* level) {
    int corner[4][Source::CHANNELS];
    Source::read(job, row.first, column.first, corner[0]);
    Source::read(job, row.first, column.second, corner[1]);
    Source::read(job, row.second, column.first, corner[2]);
    Source::read(job, row.second, column.second, corner[3]);
#pragma unroll
    for (int i = 0; i < Source::CHANNELS; ++i) {
        const int upper = (corner[0][i] * column.first_weight + corner[1][i] * column.second_weight) >> 4;
        const int lower = (corner[2][i] * column.first_weight + corner[3][i] * column.second_weight) >> 4;
        const int sum = ((upper * row.first_weight) >> 16) + ((lower * row.second_weight) >> 16);
        level[i] = (sum + 2) >> 2;
    }
}

// OpenCV's COLOR_BGR2GRAY: BT.601 luma in units of 1/2^15.
__device__ __forceinline__ int luma_of(const int* bgr) {
    return (bgr[0] * 3735 + bgr[1] * 19235 + bgr[2] * 9798 + (1 << 14)) >> 15;
}

// Levels of a source → levels of the network's planes, in their order.
template <int FROM, int TO>
__device__ __forceinline__ void arrange(const Job& job, const int* level, int* plane) {
    if constexpr (FROM == 3 && TO == 1) {
        plane[0] = luma_of(level);
    } else {
#pragma unroll
        for (int i = 0; i < TO; ++i) {
            plane[i] = FROM == 1 ? level[0] : level[job.reversed ? TO - 1 - i : i];
        }
    }
}

template <class Source, int CHANNELS, class Word>
__device__ __forceinline__ void preprocess(const Job& job) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x;
    const int y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= job.out_width || y >= job.out_height) {
        return;
    }
    const int column = x - job.left, row = y - job.top;
    int plane[CHANNELS];
    if (column >= 0 && column < job.width && row >= 0 && row < job.height) {
        int level[Source::CHANNELS];
        interpolate<Source>(job, job.columns[column], job.rows[row], level);
        arrange<Source::CHANNELS, CHANNELS>(job, level, plane);
    } else {
#pragma unroll
        for (int i = 0; i < CHANNELS; ++i) {
            plane[i] = job.pad;
        }
    }
    const Word* table = static_cast<const Word*>(job.table);
    Word* out = static_cast<Word*>(job.out) + y * job.out_width + x;
    const int plane_size = job.out_width * job.out_height;
#pragma unroll
    for (int i = 0; i < CHANNELS; ++i) {
        out[i * plane_size] = table[i * 256 + plane[i]];
    }
}

// preprocess_<format>_<channels>x<bits of an output value>
#define KERNEL(format, Source, channels, bits, Word)                                           \
    extern "C" __global__ void __launch_bounds__(256)                                          \
        preprocess_##format##_##channels##x##bits(const Job job) {                             \
        preprocess<Source, channels, Word>(job);                                               \
    }
#define KERNELS(format, Source)                                                                \
    KERNEL(format, Source, 1, 8, unsigned char)                                                \
    KERNEL(format, Source, 1, 16, unsigned short)                                              \
    KERNEL(format, Source, 1, 32, unsigned int)                                                \
    KERNEL(format, Source, 3, 8, unsigned char)                                                \
    KERNEL(format, Source, 3, 16, unsigned short)                                              \
    KERNEL(format, Source, 3, 32, unsigned int)

KERNELS(bgr8, Bgr8)
KERNELS(gray8, Gray8)
KERNELS(gray16, Gray16)
KERNELS(nv12, Nv12)
