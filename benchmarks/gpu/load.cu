// Work that takes as long as it is told to, and whose result proves what it was given: word i of a row's output
// is the exclusive-or of the row's input words i, i + out_words, ..., sent `rounds` times through a generator that
// the processor can jump ahead in.

extern "C" __global__ void synthetic_load(
    const unsigned* input, unsigned* output, int rows, int in_words, int out_words, unsigned rounds)
{
    int at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= rows * out_words)
        return;
    int row = at / out_words, word = at % out_words;
    unsigned value = 0;
    for (int i = word; i < in_words; i += out_words)
        value ^= input[static_cast<long long>(row) * in_words + i];
    for (unsigned round = 0; round < rounds; ++round)
        value = value * 1664525u + 1013904223u;
    output[at] = value;
}
