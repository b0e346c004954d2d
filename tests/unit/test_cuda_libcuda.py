"""The calls that go to libcuda directly: a C library that checks what it is called with stands in for it."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from edge.cuda.libcuda import CudaCallError, LibCuda
from edge.errors import RuntimeFault

pytestmark = pytest.mark.skipif(not shutil.which("gcc"), reason="gcc is not installed")

STREAM, GRAPH, EXECUTABLE = 0x7F12_3456_7890, 0x7F00_0000_1000, 0x7F00_0000_2000  # beyond 32 bits

SOURCE = """
#include <stddef.h>
#include <string.h>
typedef unsigned long long u64;
static const u64 STREAM = 0x7F1234567890, GRAPH = 0x7F0000001000, EXECUTABLE = 0x7F0000002000;
static int kept_priority = 77;
#define EXPECT(c) if (!(c)) return 1
int cuGetErrorString(int code, const char **text) {
    switch (code) { case 0: *text = "no error"; return 0; case 1: *text = "invalid argument"; return 0;
                    case 2: *text = "out of memory"; return 0; }
    *text = NULL; return 1; }
int cuGetErrorName(int code, const char **text) {
    switch (code) { case 0: *text = "CUDA_SUCCESS"; return 0;
                    case 1: *text = "CUDA_ERROR_INVALID_VALUE"; return 0;
                    case 2: *text = "CUDA_ERROR_OUT_OF_MEMORY"; return 0; }
    *text = NULL; return 1; }
int cuStreamSetAttribute(u64 s, int attribute, const void *value) {
    EXPECT(s == STREAM && attribute == 8); memcpy(&kept_priority, value, sizeof(int)); return 0; }
int cuStreamGetPriority(u64 s, int *priority) { EXPECT(s == STREAM); *priority = kept_priority; return 0; }
int cuStreamBeginCapture_v2(u64 s, int mode) { EXPECT(s == STREAM && mode == 1); return 0; }
int cuStreamEndCapture(u64 s, u64 *graph) { EXPECT(s == STREAM); *graph = GRAPH; return 0; }
int cuGraphInstantiateWithFlags(u64 *e, u64 g, u64 flags) {
    EXPECT(g == GRAPH && !flags); *e = EXECUTABLE; return 0; }
int cuGraphLaunch(u64 e, u64 s) { EXPECT(e == EXECUTABLE && s == STREAM); return 0; }
int cuGraphDestroy(u64 g) { EXPECT(g == GRAPH); return 0; }
int cuGraphExecDestroy(u64 e) { EXPECT(e == EXECUTABLE); return 0; }
int cuMemHostRegister_v2(u64 p, size_t n, unsigned flags) {
    EXPECT(flags == 3); return p == 0x7FFFFFFF0000 && n == 5000000000 ? 0 : 2; }
int cuMemHostUnregister(u64 p) { EXPECT(p == 0x7FFFFFFF0000); return 0; }
int cuMemHostGetDevicePointer_v2(u64 *d, u64 p, unsigned flags) { EXPECT(!flags); *d = p + 1; return 0; }
static int pops = 0;
int cuCtxPopCurrent_v2(u64 *context) { EXPECT(context); *context = 0x7F0000003000; return pops++ ? 201 : 0; }
int cuCtxPopped(void) { return pops; }
int cuCtxGetStreamPriorityRange(int *least, int *most) { *least = 0; *most = -5; return 0; }
int cuDevicePrimaryCtxReset_v2(int device) { EXPECT(device == 3); return 0; }
"""


@pytest.fixture(scope="module")
def libcuda(tmp_path_factory: pytest.TempPathFactory) -> LibCuda:
    folder = tmp_path_factory.mktemp("libcuda")
    (folder / "stub.c").write_text(SOURCE)
    library = folder / "libcuda.so.1"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, folder / "stub.c"], check=True)
    return LibCuda(str(library))


def test_handles_and_addresses_keep_all_their_bits(libcuda: LibCuda) -> None:
    libcuda.begin_capture(STREAM)
    assert libcuda.end_capture(STREAM) == GRAPH
    assert libcuda.instantiate(GRAPH) == EXECUTABLE
    libcuda.launch(EXECUTABLE, STREAM)
    libcuda.destroy_graph(GRAPH)
    libcuda.destroy_executable(EXECUTABLE)
    libcuda.register_host(0x7FFF_FFFF_0000, 5_000_000_000)
    assert libcuda.host_device_pointer(0x7FFF_FFFF_0000) == 0x7FFF_FFFF_0001
    libcuda.unregister_host(0x7FFF_FFFF_0000)
    libcuda.reset_primary_context(3)


def test_a_priority_may_be_negative(libcuda: LibCuda) -> None:
    libcuda.set_priority(STREAM, -5)
    assert libcuda.priority(STREAM) == -5


def test_the_range_of_priorities_is_the_devices(libcuda: LibCuda) -> None:
    assert libcuda.priority_range() == (0, -5)


def test_a_context_is_popped_whatever_the_driver_says(libcuda: LibCuda) -> None:
    libcuda.pop_context()
    libcuda.pop_context()  # reports an error
    assert libcuda._lib.cuCtxPopped() == 2


def test_a_failed_call_has_its_cuda_name(libcuda: LibCuda) -> None:
    with pytest.raises(CudaCallError, match="cuMemHostRegister_v2 failed: out of memory") as caught:
        libcuda.register_host(1, 1)
    assert (caught.value.name, caught.value.code) == ("CUDA_ERROR_OUT_OF_MEMORY", 2)


def test_names_are_found_by_description(libcuda: LibCuda) -> None:
    assert libcuda.error_names() == {
        "no error": "CUDA_SUCCESS",
        "invalid argument": "CUDA_ERROR_INVALID_VALUE",
        "out of memory": "CUDA_ERROR_OUT_OF_MEMORY",
    }


def test_a_driver_without_a_function_says_so(libcuda: LibCuda) -> None:
    with pytest.raises(CudaCallError, match="no such function"):
        libcuda._call("cuSomethingOfTheFuture")


def test_without_a_driver_the_error_says_what_to_do() -> None:
    with pytest.raises(RuntimeFault, match="no NVIDIA driver on this machine") as caught:
        LibCuda("libcuda-that-is-not-there.so.1")
    assert "--target cpu" in caught.value.fix
