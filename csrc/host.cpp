// gankern._host: which instruction set runs, and the raw cores on NumPy buffers for the tests.
#include <pybind11/pybind11.h>

#include <string>

#include "common/isa.h"

namespace py = pybind11;

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
  m.def(
      "isa_environment_error", [] { return isa_environment_error(); },
      "What is wrong with GANKERN_ISA, or an empty string.");
}
