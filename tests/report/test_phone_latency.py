"""Times that were measured on phones, read from what LiteRT's benchmark program prints."""

import sys

import keras
import pytest

from tfjointrd import report

# Printed by benchmark_model (LiteRT, `--graph=blaze_face_short_range.tflite --num_threads=4`), from LiteRT's build
# instructions; the lines between are left out.
RECORDED = """\
INFO: STARTING!
INFO: Num threads: [4]
INFO: Initialized session in 5.757ms.
INFO: Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
INFO: count=526 first=2125 curr=969 min=910 max=2125 avg=949.861 std=68 p5=915 median=939 p95=990

INFO: Running benchmark for at least 50 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
INFO: count=1054 first=1015 curr=942 min=910 max=1102 avg=947.132 std=23 p5=915 median=942 p95=991

INFO: [./litert/tools/benchmark_litert_model.h:72]
========== BENCHMARK RESULTS ==========
INFO: [./litert/tools/benchmark_litert_model.h:73] Model initialization: 5.76 ms
INFO: [./litert/tools/benchmark_litert_model.h:75] Warmup (first):       2.12 ms
INFO: [./litert/tools/benchmark_litert_model.h:77] Warmup (avg):         0.95 ms (526 runs)
INFO: [./litert/tools/benchmark_litert_model.h:79] Inference (avg):      0.95 ms (1054 runs)
INFO: [./litert/tools/benchmark_litert_model.h:83] Inference (min):      0.91 ms
INFO: [./litert/tools/benchmark_litert_model.h:85] Inference (max):      1.10 ms
INFO: [./litert/tools/benchmark_litert_model.h:87] Inference (std):      0.02
INFO: [./litert/tools/benchmark_litert_model.h:94] Throughput:           197.97 MB/s
INFO: [./litert/tools/benchmark_litert_model.h:105] Init footprint:       4.06 MB
INFO: [./litert/tools/benchmark_litert_model.h:107] Overall footprint:    7.07 MB
INFO: [./litert/tools/benchmark_litert_model.h:114] Peak memory usage not available. (peak_mem_mb <= 0)
"""
# What litert-cli shows of it by default, as its filter lets lines of `benchmark_litert_model` through.
FILTERED = "\n".join(line for line in RECORDED.splitlines() if "benchmark_litert_model" in line) + "\n"
# By `adb logcat`, in the form of litert-cli 0.2.1's own tests.
LOGCAT = FILTERED.replace("INFO: [./litert/tools/", "09-28 06:21:49.075 19416 19416 I litert  : [")


def test_the_recorded_output(tmp_path):
    found = report.read_phone_latency(RECORDED)
    assert (found.median_ms, found.min_ms, found.max_ms, found.runs) == (0.942, 0.910, 1.102, 1054)  # not the warm-up's
    assert found.mean_ms == pytest.approx(0.947132) and found.std_ms == 0.023
    assert (found.init_ms, found.memory_mb, found.typical_ms) == (5.76, 7.07, 0.942)
    (tmp_path / "phone.log").write_text(RECORDED)
    assert report.read_phone_latency(tmp_path / "phone.log") == found
    assert str(found) == "0.942 ms median, 0.910 to 1.102, 1054 runs"


@pytest.mark.parametrize("log", [FILTERED, LOGCAT], ids=["litert-cli", "logcat"])
def test_the_summary_alone(log):
    found = report.read_phone_latency(log)
    assert (found.mean_ms, found.min_ms, found.max_ms, found.runs) == (0.95, 0.91, 1.10, 1054)
    assert found.median_ms is None and found.typical_ms == 0.95 and "0.950 ms mean" in str(found)


def test_older_programs_print_no_percentiles():
    log = "count=50 first=2100 curr=2050 min=2000 max=2200 avg=2060.5 std=40\n"
    assert report.read_phone_latency(log).typical_ms == pytest.approx(2.0605)


@pytest.mark.parametrize("log", ["\n", "adb: no devices/emulators found\n", "Inference (avg):      0.95 ms (9 runs)\n"])
def test_a_log_without_times(log):
    with pytest.raises(ValueError, match="Expected `log` to be what LiteRT's benchmark_model prints"):
        report.read_phone_latency(log)


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        report.read_phone_latency(tmp_path / "none.log")


def program(tmp_path, code):
    """A command that runs Python code instead of a phone."""
    (tmp_path / "program.py").write_text(code)
    return f"{sys.executable} {tmp_path / 'program.py'} benchmark {{path}} --android"


def test_a_table_of_a_phone(tmp_path):
    code = f"import os, sys; assert os.path.getsize(sys.argv[2]); print({RECORDED!r})"
    image = keras.Input((4, 4, 3))
    x = keras.layers.Conv2D(8, 1, name="conv")(image)
    network = keras.Model(image, keras.layers.Dense(2, name="logits")(keras.layers.Flatten()(x)))
    timer = report.phone_timer(program(tmp_path, code))
    table = report.layer_latencies(network, (1, 2), (), round_to=1, timer=timer, path=tmp_path / "phone.json")
    assert table["conv"] == [[3, 8, 0.942], [3, 4, 0.942]] and set(table) == {"conv", "logits"}


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import sys; print('no device'); sys.exit(3)", "exit status 3 .*no device"),
        ("print('nothing')", "Expected `log` to be what"),
    ],
)
def test_a_program_that_fails(code, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        report.phone_timer(program(tmp_path, code))(tmp_path / "a.tflite")


def test_bad_commands():
    with pytest.raises(ValueError, match="where the file belongs"):
        report.phone_timer("litert benchmark")
    with pytest.raises(ValueError, match="Expected `command` to be a program"):
        report.phone_timer("/no/such/program {path}")("a.tflite")
