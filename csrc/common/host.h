// What Python may ask of the torch-free library: by pybind11 (gankern._host), or by ctypes where Python's headers were
// missing at build time.
#pragma once

extern "C" {

// Name of the instruction set that kernels run with now.
const char* gankern_isa();

// Name of a level, lowest first; null past the last one.
const char* gankern_isa_level(int level);

// 1 if the processor and this build can run the level of that name, 0 if not, -1 for an unknown name.
int gankern_isa_supported(const char* name);

// Changes the level for the whole process; as above, and nothing changes unless the result is 1.
int gankern_set_isa(const char* name);

// Lane instructions per second of the calling thread, measured for about so many seconds.
double gankern_peak_instructions(double seconds);
}
