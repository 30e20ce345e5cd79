// Which instruction set the kernels run with, chosen once at run time.
#pragma once

namespace gankern {

enum class Isa { baseline = 0, avx2 = 1, avx512 = 2 };
inline constexpr int isa_count = 3;

// The process-wide choice. The first call reads GANKERN_ISA ("baseline", "avx2", "avx512"); without it, the best level
// that this processor and this build support is chosen.
Isa isa();

// True if the level was compiled in and the processor (and its operating system) can run it.
bool isa_supported(Isa level);

// Changes the process-wide choice; returns false, changing nothing, for a level that is not supported.
bool isa_override(Isa level);

const char* isa_name(Isa level);

// Level for a name; returns false for an unknown name.
bool isa_parse(const char* name, Isa* level);

}  // namespace gankern
