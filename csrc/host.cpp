// gankern._host: which instruction set runs, and the raw cores on NumPy buffers for the tests.
#include <pybind11/pybind11.h>

#include <chrono>
#include <string>

#include "ceilings/core.h"
#include "common/isa.h"

namespace py = pybind11;

namespace {

// Lane instructions per second of the calling thread: the best mix in its best slice of some milliseconds.
double peak_instructions(double seconds) {
  using clock = std::chrono::steady_clock;
  using namespace gankern;
  const auto spin = ceilings::kernels(isa()).spin;
  double best = 0;
  for (int mix = 0; mix < ceilings::mixes; ++mix) {
    const auto start = clock::now();
    int64_t rounds = 1 << 12;
    std::chrono::duration<double> slice{};
    do {
      const auto before = clock::now();
      const auto done = static_cast<double>(spin(mix, rounds));
      slice = clock::now() - before;
      if (slice.count() < 2e-3) {
        rounds *= 2;
        continue;
      }
      const double rate = done / slice.count();
      best = rate > best ? rate : best;
    } while (std::chrono::duration<double>(clock::now() - start).count() < seconds / ceilings::mixes || best == 0);
  }
  return best;
}

}  // namespace

PYBIND11_MODULE(_host, m) {
  using namespace gankern;
  m.doc() = "Instruction set report and override, and the torch-free cores.";

  m.def("isa", [] { return isa_name(isa()); }, "The instruction set that kernels run with now.");
  m.def(
      "isa_supported",
      [] {
        py::list names;
        for (int i = 0; i < isa_count; ++i) {
          if (isa_supported(static_cast<Isa>(i))) names.append(isa_name(static_cast<Isa>(i)));
        }
        return names;
      },
      "The instruction sets that this processor and build can run, lowest first.");
  m.def(
      "set_isa",
      [](const std::string& name) {
        Isa level;
        if (!isa_parse(name.c_str(), &level)) {
          throw py::value_error("set_isa: name must be baseline, avx2 or avx512, got '" + name + "'");
        }
        if (!isa_override(level)) {
          throw py::value_error("set_isa: " + name + " is not supported by this processor or build");
        }
      },
      py::arg("name"), "Changes the instruction set for the whole process.");
  m.def("peak_instructions", &peak_instructions, py::arg("seconds"), py::call_guard<py::gil_scoped_release>(),
        "Float vector instructions per lane and second that this thread reaches in registers, measured for so long.");
  m.def(
      "isa_environment_error", [] { return isa_environment_error(); },
      "What is wrong with GANKERN_ISA, or an empty string.");
}
