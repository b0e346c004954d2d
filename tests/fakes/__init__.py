"""Devices that are not here: a CUDA driver with real asynchrony, and TensorRT on top of it.

    cuda = FakeCuda(seed=1)
    cuda.install(monkeypatch)                       # edge.cuda runs on it from now on
    FakeTensorRT(cuda).install(monkeypatch)         # so does edge.backends.tensorrt
    ...
    cuda.assert_clean()                             # no race, no poison read, everything freed

| module      | stands for                                                                  |
|-------------|-----------------------------------------------------------------------------|
| cuda        | the device: counts calls, injects faults, tells what went wrong             |
| schedule    | work and its order: clocks, poison, races                                   |
| queues      | streams inside the device: queues on threads, event records, captures       |
| memory      | blocks of real bytes with guards and poison                                 |
| loans       | host memory that the device works on                                        |
| order       | vector clocks: which operation is known to come before which                |
| errors      | the results of CUDA calls, and PyCUDA's exceptions for them                 |
| driver      | `pycuda.driver`; its objects: contexts, streams, allocations, modules       |
| libcuda     | `edge.cuda.libcuda.LibCuda`                                                 |
| install     | puts them where the project looks for the real ones                         |
| tensorrt    | the modules `tensorrt` and `tensorrt_rtx`: running engines                  |
| trt_builder | the same: compiling them; trt_graph and trt_types are what both work on     |
| ort         | `onnxruntime` with a CUDA provider                                          |
"""
