// gankern._host: the instruction set report and override, and the micro-kernel of the benchmarks' ceilings.
#include "common/host.h"

#include <pybind11/pybind11.h>

#include <string>

namespace py = pybind11;

PYBIND11_MODULE(_host, m) {
  m.doc() = "Instruction set report and override, and measured ceilings.";

  m.def("isa", &gankern_isa, "The instruction set that kernels run with now.");
  m.def(
      "isa_supported",
      [] {
        py::list names;
        for (int i = 0; gankern_isa_level(i) != nullptr; ++i) {
          if (gankern_isa_supported(gankern_isa_level(i)) == 1) names.append(gankern_isa_level(i));
        }
        return names;
      },
      "The instruction sets that this processor and build can run, lowest first.");
  m.def(
      "set_isa",
      [](const std::string& name) {
        const int done = gankern_set_isa(name.c_str());
        if (done < 0) throw py::value_error("set_isa: name must be baseline, avx2 or avx512, got '" + name + "'");
        if (done == 0) throw py::value_error("set_isa: " + name + " is not supported by this processor or build");
      },
      py::arg("name"), "Changes the instruction set for the whole process.");
  m.def("peak_instructions", &gankern_peak_instructions, py::arg("seconds"), py::call_guard<py::gil_scoped_release>(),
        "Float vector instructions per lane and second that this thread reaches in registers, measured for so long.");
}
