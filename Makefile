# captiond: live captions from a microphone to a Unix socket.
#
#   make               build everything into build/
#   make run           install what is missing, build, get a model, caption the microphone in this terminal
#                      INPUT=monitor captions what the computer plays, MODEL=base takes another model
#   make test          install what is missing, build, run every test; SAN=address or SAN=thread for a build with
#                      sanitizers, T='unit/* system/test_client' for some of the tests
#   make check         include rules, formatting, warnings as errors, static analysis
#   make cuda-setup    what the CUDA engine needs, and what of it is here
#   make gpu-check     tests and times on a real NVIDIA GPU, as one report
#   make gpu-kit       programs for gpu-check on a machine that cannot build them
#   make release       everything in build/release, with code for every GPU that can run it
#   make cuda-check    what nvcc made of the CUDA kernels: warnings, local memory, registers, tensor cores
#   make cuda-mutants  plant mistakes into the CUDA engine, one at a time, and see that the tests notice; ONLY=regex for
#                      some of them, PART=3/8 for each eighth one
#   make cuda-race-mutants  the same for missing barriers, that ThreadSanitizer must name
#   make cuda-sanitize  the CUDA engine's tests under AddressSanitizer and UndefinedBehaviorSanitizer, with three seeds
#   make cuda-coverage  lines of gpu/cuda/ that the tests run on the processor, of which 95 % must be
#   make fuzz          look for inputs that break the readers of model files, FUZZ_SECONDS=60 for each kind
#   make bench         speed, memory and errors beside faster-whisper; FILE= takes another recording
#   make hotwords      names and terms written right without hotwords and with them; ARGS= (tools/bench/hotwords/recall.py)
#   make accuracy      errors, tokens, word times and more beside faster-whisper and openai-whisper; FOLDER= takes other
#                      recordings, ARGS= more options (tools/bench/accuracy/README.md)
#   make stress        ten minutes of live captions from a virtual microphone; SECONDS= takes longer
#   make install       PREFIX=/usr/local DESTDIR=; make uninstall takes it away again
#   make deps          install what building, testing and checking need; what else needs more installs it by itself
#   make format        clang-format all sources
#   make clean         remove what was built
#
#   The CUDA engine is built where nvcc is, 12.4 or later: CUDA=0 leaves it out, CUDA_ARCHS="75 86" says for which GPUs (80 90
#   and those that come after, if nothing is said).

VERSION  := 0.1.0
PREFIX   ?= /usr/local
BUILD    ?= build$(if $(SAN),-$(SAN))
CC       ?= cc
MODELS   ?=

STD      := -std=c11 -D_GNU_SOURCE
WARN     := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wno-unused-parameter -Wno-format-truncation
WARN     += $(if $(WERROR),-Werror)
OPT      ?= -O2 -g
DEFS     := -DCAPTIOND_VERSION='"$(VERSION)"'
SAN_address := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -fno-var-tracking
SAN_thread  := -fsanitize=thread -fno-omit-frame-pointer -fno-var-tracking
SANFLAGS := $(if $(SAN),$(SAN_$(SAN)))

PKGS     := libuv portaudio-2.0 alsa samplerate sndfile jansson inih libcurl libcrypto libsystemd zlib
ifneq ($(shell pkg-config --exists $(PKGS) 2>/dev/null && echo yes),yes)
  PKGS_MISSING := yes
endif
PKG_CFLAGS := $(shell pkg-config --cflags $(PKGS) 2>/dev/null)

CFLAGS   ?=
CPPFLAGS += -I. $(DEFS) $(PKG_CFLAGS)
ALL_CFLAGS = $(STD) $(OPT) $(WARN) $(SANFLAGS) -fPIC -pthread -MMD -MP $(CPPFLAGS) $(CFLAGS)
ALL_LDFLAGS = $(SANFLAGS) -pthread -Wl,--as-needed $(LDFLAGS)

LIBS_STREAM  := $(shell pkg-config --libs portaudio-2.0 alsa samplerate sndfile 2>/dev/null)
LIBS_DAEMON  := $(shell pkg-config --libs libuv jansson inih libsystemd 2>/dev/null)
LIBS_TOOLS   := $(shell pkg-config --libs jansson libcurl libcrypto zlib 2>/dev/null)
LIBS_GPU     := -ldnnl -lgomp $(shell pkg-config --libs jansson zlib 2>/dev/null) -ldl -lm

ARCH     := $(shell uname -m)

# --- the CUDA engine: a library of its own, opened at run time, built where there is a toolkit -----------------
# An installation takes what was built last: root has another PATH, and would take a missing nvcc for CUDA=0.
CUDA_BUILT := $(BUILD)/cuda-built.mk
ifneq ($(filter install,$(MAKECMDGOALS)),)
CUDA_KEPT := $(if $(filter undefined,$(origin CUDA)),$(file <$(CUDA_BUILT)))
$(eval $(file <$(CUDA_BUILT)))
endif
ifndef NVCC
NVCC     := $(or $(shell command -v nvcc 2>/dev/null),$(wildcard /usr/local/cuda/bin/nvcc))
endif
ifneq ($(CUDA),0)
NVCC_SAYS := $(if $(NVCC),$(shell $(NVCC) --version 2>/dev/null | sed -n 's/.*release \([0-9.]*\).*/\1/p'))
endif
ifndef CUDA
CUDA     := $(if $(NVCC_SAYS),$(shell printf '12.4\n%s\n' $(NVCC_SAYS) | sort -VC && echo 1))
endif
# Compute capabilities with code of their own; the last one also as PTX, for newer GPUs.
CUDA_ARCHS ?= 80 90
define CUDA_NOW :=
CUDA ?= $(if $(filter 1,$(CUDA)),1,0)
NVCC ?= $(NVCC)
CUDA_ARCHS ?= $(CUDA_ARCHS)
endef
ifneq ($(strip $(file <$(CUDA_BUILT))),$(strip $(CUDA_NOW)))
.PHONY: $(CUDA_BUILT)
endif

# --- modules: every .c of a folder belongs to it -----------------------------------------------------------
src       = $(wildcard $(addsuffix /*.c,$(1)))
obj       = $(patsubst %.c,$(BUILD)/%.o,$(1))

BASE_SRC    := $(call src,daemon/base)
STREAM_SRC  := $(call src,stream)
DECODER_SRC := $(call src,decoder)
# gpu/host/kernels_*.c are compiled once for each instruction set, see below.
GPU_SRC     := $(call src,gpu) $(filter-out $(wildcard gpu/host/kernels_*.c),$(call src,gpu/host))
KERNEL_SRC  := $(wildcard gpu/host/kernels_*.c)
DAEMON_SRC  := $(filter-out daemon/main.c,$(call src,daemon))
TOOL_MAINS  := $(addprefix tools/,captionctl.c captiond_model.c captiond_transcribe.c live_eval.c)
TOOLS_SRC   := $(filter-out $(TOOL_MAINS),$(call src,tools))
TEST_SUPPORT_SRC := $(call src,tests/support)

# --- kernels: one source, several instruction sets, chosen at run time --------------------------------------
ISAS := generic
ISA_generic :=
ifeq ($(ARCH),x86_64)
ISAS += avx2 avx512 avx512bf16
ISA_avx2       := -mavx2 -mfma -mf16c
ISA_avx512     := $(ISA_avx2) -mavx512f -mavx512bw -mavx512vl -mavx512dq
ISA_avx512bf16 := $(ISA_avx512) -mavx512bf16
endif
KERNEL_OBJ := $(foreach i,$(ISAS),$(patsubst %.c,$(BUILD)/%.$(i).o,$(KERNEL_SRC)))

BASE_OBJ    := $(call obj,$(BASE_SRC))
STREAM_OBJ  := $(call obj,$(STREAM_SRC)) $(BUILD)/stream/silero/weights.o
DECODER_OBJ := $(call obj,$(DECODER_SRC))
GPU_OBJ     := $(call obj,$(GPU_SRC)) $(KERNEL_OBJ)
DAEMON_OBJ  := $(call obj,$(DAEMON_SRC))
TOOLS_OBJ   := $(call obj,$(TOOLS_SRC))
TEST_SUPPORT_OBJ := $(call obj,$(TEST_SUPPORT_SRC))
# One archive, so that each program takes only what it uses.
LIB         := $(BUILD)/libcaptiond.a
LIB_OBJ     := $(BASE_OBJ) $(STREAM_OBJ) $(DECODER_OBJ) $(GPU_OBJ) $(DAEMON_OBJ) $(TOOLS_OBJ)

CUDA_SRC    := $(wildcard gpu/cuda/*.cu)
CUDA_PLUGIN := $(BUILD)/libcaptiond-cuda.so
PROGRAMS := $(addprefix $(BUILD)/,captiond captionctl captiond-model captiond-transcribe)
TEST_SRC := $(wildcard tests/unit/*.c tests/oracle/*.c tests/golden/*.c tests/property/*.c tests/system/*.c)
# T='unit/* property/test_ring': only these.
TESTS    := $(patsubst tests/%.c,$(BUILD)/tests/%,$(if $(T),$(filter $(TEST_SRC),$(wildcard $(T:%=tests/%.c))),$(TEST_SRC)))
# The CUDA engine's kernels and host code run on the processor in these tests (tests/cuda/harness): the oracle tests of the
# operations once more, and those of the harness itself.
CUDA_TWINS := layer_norm linear attention mel linear_rows self_attention cross_attention kv select advance beam graph
CUDA_TESTS := $(patsubst %,$(BUILD)/tests/cuda/test_%,$(CUDA_TWINS) harness open failures lost step whisper)
# Those that run kernels once more, with the kernels under ThreadSanitizer.
CUDA_RACES := $(if $(SAN)$(COVERAGE),,$(patsubst %,$(BUILD)/tests/races/test_%,$(CUDA_TWINS) step))
TESTS    += $(if $(filter 1,$(CUDA)),$(if $(T),$(filter $(addprefix $(BUILD)/tests/,$(subst *,%,$(T))),$(CUDA_TESTS) $(CUDA_RACES)),\
	$(CUDA_TESTS) $(CUDA_RACES)))

# Each step is a short line; V=1 shows the commands, -s nothing.
comma := ,
Q   := $(if $(V),,@)
say  = $(if $(or $(V),$(findstring s,$(firstword -$(MAKEFLAGS)))),,@printf '  %-5s %s\n' $(1) $(2))

.PHONY: all programs tests help clean cuda-said
all: programs
programs: $(PROGRAMS) $(if $(SAN),,$(if $(filter 1,$(CUDA)),$(CUDA_PLUGIN))) $(CUDA_BUILT) cuda-said ; @:
$(CUDA_BUILT): export NOW = $(CUDA_NOW)
$(CUDA_BUILT):
	@mkdir -p $(@D)
	@printf '%s\n' "$$NOW" >$@
# A library for GPUs of an earlier build would be opened by programs that are of another one.
cuda_absent = $(if $(CUDA_KEPT),as it was built: make builds anew,$(if $(filter file,$(origin CUDA)),for which nvcc \
	12.4 or later is missing (make cuda-setup),as asked))
cuda-said:
	$(if $(filter 1,$(CUDA)),,@[ ! -e $(CUDA_PLUGIN) ] || { rm -f $(CUDA_PLUGIN) && echo '  CUDA  $(CUDA_PLUGIN) is of an earlier build: removed'; })
	$(call say,CUDA,'$(if $(filter 1,$(CUDA)),1: engine built by $(NVCC),0: without the CUDA engine$(comma) $(cuda_absent))')
tests: $(TESTS) $(if $(SAN),,$(if $(filter 1,$(CUDA)),fake-gpu $(if $(T),,$(addprefix $(BUILD)/tests/gpu/,device.o harness.o)))) ; @:

ifdef PKGS_MISSING
$(BUILD)/%.o: ; @echo "Libraries are missing. 'make deps' installs them." >&2; exit 1
endif

$(BUILD)/%.o: %.c
	$(call say,CC,$<)
	@mkdir -p $(@D)
	$(Q)$(CC) $(ALL_CFLAGS) -c -o $@ $<

$(BUILD)/stream/silero/weights.o: stream/silero/weights.S stream/silero/silero16k.bin
	$(call say,AS,$<)
	@mkdir -p $(@D)
	$(Q)$(CC) -c -o $@ $<

define isa_rule
$(BUILD)/%.$(1).o: %.c
	$$(call say,CC,'$$< ($(1))')
	@mkdir -p $$(@D)
	$$(Q)$(CC) $(ALL_CFLAGS) $(if $(SAN),-O1,-O3) -ffp-contract=fast $(ISA_$(1)) -DKERNEL_ISA=$(1) -c -o $$@ $$<
endef
$(foreach i,$(ISAS),$(eval $(call isa_rule,$(i))))

$(LIB): $(LIB_OBJ)
	$(call say,AR,$@)
	@rm -f $@
	$(Q)$(AR) rcs $@ $^

$(BUILD)/captiond: $(BUILD)/daemon/main.o $(LIB)
	$(call say,LINK,$@)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS_STREAM) $(LIBS_DAEMON) $(LIBS_GPU)
$(BUILD)/captionctl: $(BUILD)/tools/captionctl.o $(LIB)
	$(call say,LINK,$@)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS_TOOLS) -lm
$(BUILD)/captiond-model: $(BUILD)/tools/captiond_model.o $(LIB)
	$(call say,LINK,$@)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS_GPU) $(LIBS_TOOLS)
$(BUILD)/captiond-transcribe: $(BUILD)/tools/captiond_transcribe.o $(BUILD)/tools/recording.o $(LIB)
	$(call say,LINK,$@)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS_STREAM) $(LIBS_DAEMON) $(LIBS_GPU)
$(BUILD)/live-eval: $(BUILD)/tools/live_eval.o $(BUILD)/tools/recording.o $(LIB)
	$(call say,LINK,$@)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS_STREAM) $(LIBS_DAEMON) $(LIBS_GPU)

# A test is one source file with its own main; it links everything but the programs' mains.
$(BUILD)/tests/%: $(BUILD)/tests/%.o $(TEST_SUPPORT_OBJ) $(LIB)
	$(call say,LINK,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS_STREAM) $(LIBS_DAEMON) $(LIBS_GPU) $(LIBS_TOOLS) -lcmocka

# --- CUDA: for GPUs by nvcc, and for the tests by the C++ compiler --------------------------------------------------
ifeq ($(CUDA),1)
# A distribution's nvcc is in /usr/bin. /usr/include, if it were named, would come before the C++ library's headers, whose
# #include_next then find nothing.
CUDA_INCLUDE := $(filter-out /usr/include,$(abspath $(dir $(realpath $(NVCC)))/../include))
CXXSTD      := -std=c++20 -D_GNU_SOURCE
CXXWARN     := -Wall -Wextra -Wshadow -Wno-unused-parameter $(if $(WERROR),-Werror)
empty       :=
NVCC_HOST   := $(subst $(empty) $(empty),$(comma),-fPIC -fvisibility=hidden $(filter-out -Wshadow,$(CXXWARN)))
NVCC_LAST   := $(lastword $(CUDA_ARCHS))
NVCC_ARCHS  := $(foreach a,$(CUDA_ARCHS),-gencode arch=compute_$(a)$(comma)code=sm_$(a)) \
	-gencode arch=compute_$(NVCC_LAST)$(comma)code=compute_$(NVCC_LAST)
# Written only where it would differ: other architectures or another toolkit make anew what nvcc made, the same ones nothing.
NVCC_STAMP  := $(BUILD)/nvcc-stamp
NVCC_NOW    := $(NVCC) $(NVCC_SAYS) $(CUDA_ARCHS)
ifneq ($(NVCC_SAYS),) # as it is for an installation where there is none any more
ifneq ($(strip $(file <$(NVCC_STAMP))),$(strip $(NVCC_NOW)))
.PHONY: $(NVCC_STAMP)
endif
endif
$(NVCC_STAMP):
	@mkdir -p $(@D)
	@echo '$(NVCC_NOW)' >$@
# No compiler makes one operation of a product and a sum by itself (fmad, ffp-contract): it would not in every form of a kernel,
# whose bits are to be the same; where it is wanted there is fmaf. Kernels load eight half floats as one value of another
# type; where such a value is not aligned a GPU faults, and so do the tests.
HOST_CXXFLAGS = $(CXXSTD) $(OPT) $(CXXWARN) $(SANFLAGS) $(COVERAGE) -march=native -ffp-contract=off -fno-strict-aliasing -fPIC \
	-MMD -MP -I. $(DEFS) $(patsubst %,-isystem %,$(CUDA_INCLUDE))
KERNEL_CXXFLAGS = $(HOST_CXXFLAGS) $(if $(SANFLAGS),,-fsanitize=alignment -fsanitize-undefined-trap-on-error) \
	-include tests/cuda/harness/kernel.h
CUDA_HOST_OBJ := $(patsubst %.cu,$(BUILD)/cuda-host/%.o,$(CUDA_SRC)) \
	$(patsubst %.cpp,$(BUILD)/cuda-host/%.o,$(wildcard tests/cuda/harness/*.cpp))

$(BUILD)/gpu/cuda/%.o: gpu/cuda/%.cu $(NVCC_STAMP)
	$(call say,NVCC,$<)
	@mkdir -p $(@D)
	$(Q)$(NVCC) -std=c++20 -O3 -fmad=false -D_GNU_SOURCE -I. $(DEFS) $(if $(WERROR),-Werror all-warnings) -Xcompiler $(NVCC_HOST) \
		$(NVCC_ARCHS) -MMD -MP -c -o $@ $<

$(CUDA_PLUGIN): $(patsubst %.cu,$(BUILD)/%.o,$(CUDA_SRC)) $(BUILD)/daemon/base/err.o $(BUILD)/gpu/mel_filter.o \
		gpu/cuda/exports.map
	$(call say,LINK,$@)
	$(Q)$(NVCC) -shared $(NVCC_ARCHS) -o $@ $(filter %.o,$^) -Xlinker --version-script=gpu/cuda/exports.map

$(BUILD)/cuda-host/%.o: %.cu
	$(call say,CXX,'$< (host)')
	@mkdir -p $(@D)
	$(Q)$(CXX) $(KERNEL_CXXFLAGS) -x c++ -c -o $@ $<

$(BUILD)/cuda-host/%.o: %.cpp
	$(call say,CXX,$<)
	@mkdir -p $(@D)
	$(Q)$(CXX) $(HOST_CXXFLAGS) -O3 -c -o $@ $<

CUDA_TEST_OBJ := $(BUILD)/tests/cuda/engine_cases.o $(CUDA_HOST_OBJ) \
	$(filter-out %/engine_cases.o,$(TEST_SUPPORT_OBJ)) $(LIB)
define cuda_test_link
$(call say,LINK,$@)
@mkdir -p $(@D)
$(Q)$(CXX) $(ALL_LDFLAGS) $(COVERAGE) -o $@ $^ $(LIBS_STREAM) $(LIBS_DAEMON) $(LIBS_GPU) $(LIBS_TOOLS) -lcmocka
endef
# Kernels under ThreadSanitizer, and nothing else under it: tests/cuda/harness/races.h.
RACES_FLAGS = $(filter-out $(SANFLAGS) $(COVERAGE),$(1)) -DHARNESS_RACES
$(BUILD)/cuda-races/%.o: %.cu
	$(call say,CXX,'$< (races)')
	@mkdir -p $(@D)
	$(Q)$(CXX) $(call RACES_FLAGS,$(KERNEL_CXXFLAGS)) -fsanitize=thread -x c++ -c -o $@ $<
$(BUILD)/cuda-races/%.o: %.cpp
	$(call say,CXX,'$< (races)')
	@mkdir -p $(@D)
	$(Q)$(CXX) $(call RACES_FLAGS,$(HOST_CXXFLAGS)) -O3 -c -o $@ $<
CUDA_RACES_OBJ := $(patsubst $(BUILD)/cuda-host/%,$(BUILD)/cuda-races/%,$(CUDA_TEST_OBJ))
define cuda_races_link
$(call say,LINK,$@)
@mkdir -p $(@D)
$(Q)$(CXX) $(ALL_LDFLAGS) -fsanitize=thread -o $@ $^ $(LIBS_STREAM) $(LIBS_DAEMON) $(LIBS_GPU) $(LIBS_TOOLS) -lcmocka
endef
$(BUILD)/tests/races/test_step: $(BUILD)/tests/cuda/test_step.o $(CUDA_RACES_OBJ)
	$(cuda_races_link)
$(BUILD)/tests/races/test_%: $(BUILD)/tests/oracle/test_%.o $(CUDA_RACES_OBJ)
	$(cuda_races_link)

# A GPU that is none: the programs of gpu-check with the library for GPUs compiled for the harness.
FAKE_GPU := $(BUILD)/fake-gpu
$(FAKE_GPU)/$(notdir $(CUDA_PLUGIN)): $(CUDA_HOST_OBJ) $(LIB)
	$(call say,LINK,$@)
	@mkdir -p $(@D)
	$(Q)$(CXX) $(ALL_LDFLAGS) -shared -o $@ $^ -Wl,--version-script=gpu/cuda/exports.map -ldl
$(FAKE_GPU)/gpu-probe: $(BUILD)/cuda-host/tools/bench/gpu_probe.o $(CUDA_HOST_OBJ) $(LIB)
	$(call say,LINK,$@)
	@mkdir -p $(@D)
	$(Q)$(CXX) $(ALL_LDFLAGS) -o $@ $^ -ldl
$(FAKE_GPU)/%: $(BUILD)/%
	@mkdir -p $(@D)
	@cp $< $@
$(FAKE_GPU)/tests/gpu/test_%: $(BUILD)/tests/cuda/test_%
	@mkdir -p $(@D)
	@cp $< $@
fake-gpu: $(addprefix $(FAKE_GPU)/,$(notdir $(CUDA_PLUGIN)) gpu-probe gpu-times captiond captiond-transcribe tests/gpu/test_layer_norm tests/gpu/test_harness)
.PHONY: fake-gpu

$(BUILD)/tests/cuda/test_harness: $(BUILD)/cuda-host/tests/cuda/test_harness.o $(CUDA_TEST_OBJ)
	$(cuda_test_link)
$(BUILD)/tests/cuda/test_%: $(BUILD)/tests/oracle/test_%.o $(CUDA_TEST_OBJ)
	$(cuda_test_link)
$(BUILD)/tests/cuda/test_%: $(BUILD)/tests/cuda/test_%.o $(CUDA_TEST_OBJ)
	$(cuda_test_link)
endif

# The oracle tests, those of the step in one kernel and of the PTX wrappers once more, for a real GPU.
GPU_TESTS := $(patsubst %,$(BUILD)/tests/gpu/test_%,$(CUDA_TWINS) step harness)
GPU_TEST_WRAPS := cudaGetDeviceProperties cudaGetDeviceProperties_v2 cudaLaunchCooperativeKernel
GPU_TEST_OBJ := $(BUILD)/tests/cuda/engine_cases.o $(BUILD)/tests/gpu/device.o $(patsubst %.cu,$(BUILD)/%.o,$(CUDA_SRC)) \
	$(filter-out %/engine_cases.o,$(TEST_SUPPORT_OBJ)) $(LIB)
# Libraries are for the linker alone: nvcc would look for code of a GPU in them. The compiler that it takes can be older than the
# one that made them, and then lacks symbols of the C++ library that are there when the program starts.
GPU_TEST_LINK := $(patsubst %,-Xlinker %,$(GPU_TEST_WRAPS:%=--wrap=%) --allow-shlib-undefined \
	$(filter-out -pthread,$(LIBS_STREAM) $(LIBS_DAEMON) $(LIBS_GPU) $(LIBS_TOOLS)) -lcmocka)
define gpu_test_link
$(call say,LINK,$@)
@mkdir -p $(@D)
$(Q)$(NVCC) $(NVCC_ARCHS) -o $@ $^ $(GPU_TEST_LINK)
endef
$(BUILD)/tests/gpu/device.o: tests/cuda/device.cu $(NVCC_STAMP)
$(BUILD)/tests/gpu/harness.o: tests/cuda/test_harness.cu $(NVCC_STAMP)
$(BUILD)/tests/gpu/device.o $(BUILD)/tests/gpu/harness.o:
	$(call say,NVCC,$<)
	@mkdir -p $(@D)
	$(Q)$(NVCC) -std=c++20 -O3 -fmad=false -D_GNU_SOURCE -I. $(NVCC_ARCHS) -MMD -MP -c -o $@ $<
$(BUILD)/tests/gpu/test_harness: $(BUILD)/tests/gpu/harness.o $(GPU_TEST_OBJ)
	$(gpu_test_link)
$(BUILD)/tests/gpu/test_step: $(BUILD)/tests/cuda/test_step.o $(GPU_TEST_OBJ)
	$(gpu_test_link)
$(BUILD)/tests/gpu/test_%: $(BUILD)/tests/oracle/test_%.o $(GPU_TEST_OBJ)
	$(gpu_test_link)
$(BUILD)/gpu-times: $(BUILD)/tools/bench/gpu_times.o $(LIB)
	$(call say,LINK,$@)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS_STREAM) $(LIBS_GPU)
$(BUILD)/gpu-probe: tools/bench/gpu_probe.cu $(NVCC_STAMP)
	$(call say,NVCC,$<)
	@mkdir -p $(@D)
	$(Q)$(NVCC) -std=c++20 -O2 -D_GNU_SOURCE $(NVCC_ARCHS) -o $@ $<
.PHONY: gpu-tests release
gpu-tests: $(GPU_TESTS) $(BUILD)/gpu-times $(BUILD)/gpu-probe $(CUDA_PLUGIN) programs
# For a machine that has a GPU and nothing to build with: tools/bench/gpu_check/kit.
gpu-kit:
	@$(MAKE) --no-print-directory $(JOBS) CUDA_ARCHS='$(or $(KIT_ARCHS),$(CUDA_ARCHS))' gpu-tests
	@tools/bench/gpu_check/kit $(BUILD) gpu-packs
.PHONY: gpu-kit
# Every GPU from Turing on that this toolkit knows, and PTX of the last for those to come.
RELEASE_ARCHS ?= $(filter $(patsubst compute_%,%,$(shell $(NVCC) --list-gpu-arch)),75 80 86 87 88 89 90 100 103 110 120 121)
release:
	@$(MAKE) --no-print-directory BUILD=build/release CUDA_ARCHS='$(RELEASE_ARCHS)' programs

.PHONY: cuda-coverage cuda-mutants cuda-check cuda-sanitize
cuda-check:
	@$(MAKE) --no-print-directory -s BUILD=build/release CUDA_ARCHS='$(RELEASE_ARCHS)' WERROR=1 build/release/$(notdir $(CUDA_PLUGIN))
	@tests/cuda/compiled build/release/$(notdir $(CUDA_PLUGIN))
cuda-mutants: export MUTANT_CXX = $(CXX) $(filter-out -MMD -MP -g,$(KERNEL_CXXFLAGS)) -w -O1
cuda-mutants: export MUTANT_LINK = $(CXX) $(ALL_LDFLAGS)
cuda-mutants: export MUTANT_OBJECTS = $(CUDA_TEST_OBJ)
cuda-mutants: export MUTANT_LIBS = $(LIBS_STREAM) $(LIBS_DAEMON) $(LIBS_GPU) $(LIBS_TOOLS) -lcmocka
cuda-mutants: $(CUDA_TESTS)
	@tests/cuda/mutants $(BUILD) '$(or $(ONLY),.)' '$(or $(PART),1/1)'
.PHONY: cuda-race-mutants
cuda-race-mutants: export MUTANT_CXX = $(CXX) $(filter-out -MMD -MP,$(call RACES_FLAGS,$(KERNEL_CXXFLAGS))) -w -fsanitize=thread
cuda-race-mutants: export MUTANT_LINK = $(CXX) $(ALL_LDFLAGS) -fsanitize=thread
cuda-race-mutants: export MUTANT_OBJECTS = $(CUDA_RACES_OBJ)
cuda-race-mutants: export MUTANT_LIBS = $(LIBS_STREAM) $(LIBS_DAEMON) $(LIBS_GPU) $(LIBS_TOOLS) -lcmocka
cuda-race-mutants: $(CUDA_RACES)
	@tests/cuda/race-mutants $(BUILD) '$(or $(ONLY),.)'
# The operations with each seed, side by side, since one test takes most of the time. WHOLE=1: the whole model once as well,
# without real speech; make stress does so. test_lost is about captions, and takes longer.
CUDA_SANITIZED := $(filter-out %/test_whisper %/test_lost,$(CUDA_TESTS))
cuda-sanitize:
	@$(MAKE) --no-print-directory -s $(JOBS) SAN=address BUILD=build-address \
		$(patsubst $(BUILD)/%,build-address/%,$(CUDA_SANITIZED) $(if $(WHOLE),$(BUILD)/tests/cuda/test_whisper))
	@logs=$$(mktemp -d); runs=; status=0; \
	for seed in 1 2 3; do \
		CAPTIOND_TEST_SEED=$$seed CAPTIOND_TEST_MODELS=/nonexistent CAPTIOND_TEST_PATIENCE=8 tests/run build-address \
			$(if $(WHOLE),$$([ $$seed != 1 ] || echo cuda/test_whisper)) $(patsubst $(BUILD)/tests/%,%,$(CUDA_SANITIZED)) \
			>$$logs/$$seed 2>&1 & runs="$$runs $$seed:$$!"; \
	done; \
	for run in $$runs; do \
		wait $${run#*:} || status=1; \
		echo "seed $${run%:*}" && cat $$logs/$${run%:*}; \
	done; \
	rm -r $$logs; exit $$status
cuda-coverage:
	@$(MAKE) --no-print-directory -s BUILD=build/coverage COVERAGE=--coverage CUDA_ARCHS=80 \
		$(patsubst $(BUILD)/%,build/coverage/%,$(CUDA_TESTS))
	@tests/cuda/coverage build/coverage

# --- what people type -----------------------------------------------------------------------------------------
# A make of its own after the libraries are there: this one may have looked for them in vain.
JOBS = $(if $(findstring jobserver,$(MAKEFLAGS)),,-j$(shell nproc 2>/dev/null || echo 1))

.PHONY: cuda-setup gpu-check
cuda-setup:
	@tools/setup/cuda
gpu-check:
	@tools/gpu-check $(BUILD)

.PHONY: run test check bench accuracy hotwords stress fuzz deps format tidy install uninstall
deps:
	@tools/setup/deps build model test check

run:
	@tools/setup/deps build model
	@$(MAKE) --no-print-directory $(JOBS) programs
	@INPUT='$(INPUT)' MODEL='$(MODEL)' tools/setup/run $(BUILD)

test:
	$(if $(TESTS),,$(error no test is called $(T)))
	@tools/setup/deps build model test
	@$(MAKE) --no-print-directory $(JOBS) programs tests
	@tools/setup/test-models $(BUILD)
	@CAPTIOND_TEST_PATIENCE=$(if $(SAN),10,1) tests/run $(BUILD) $(patsubst $(BUILD)/tests/%,'%',$(if $(T),$(TESTS)))

fuzz:
	@tools/setup/deps build fuzz
	@FUZZ_SECONDS='$(or $(FUZZ_SECONDS),60)' tests/fuzz/run

bench:
	@tools/setup/deps build model
	@$(MAKE) --no-print-directory $(JOBS) programs
	@tools/setup/test-models $(BUILD)
	@FILE='$(FILE)' tools/bench/run $(BUILD)

accuracy:
	@tools/setup/deps build model
	@$(MAKE) --no-print-directory $(JOBS) programs
	@tools/setup/test-models $(BUILD)
	@FOLDER='$(FOLDER)' tools/bench/accuracy/run $(BUILD) $(ARGS)

hotwords:
	@tools/setup/deps build model hotwords
	@$(MAKE) --no-print-directory $(JOBS) programs
	@tools/setup/test-models $(BUILD)
	@python3 tools/bench/hotwords/recall.py $(BUILD) $(ARGS)

# A recording of some length with natural pauses is best; the fixture is short and synthetic.
STRESS_FILE ?= $(firstword $(wildcard ../shared/speech/en_ivr_long.flac) tests/fixtures/harbour.flac)
stress:
	@tools/setup/deps build model test
	@$(MAKE) --no-print-directory $(JOBS) programs
	@tools/setup/test-models $(BUILD)
	@python3 tests/stress/live.py $(BUILD) '$(STRESS_FILE)' $(or $(MODEL),tiny.en) $(or $(SECONDS),600)
	@$(if $(filter 1,$(CUDA)),$(MAKE) --no-print-directory cuda-sanitize WHOLE=1)

check:
	@tools/setup/deps build test check
	@tests/check

SOURCES  := $(sort $(wildcard *.c $(addsuffix /*.c,daemon daemon/base stream gpu gpu/host decoder tools tools/bench \
	tests/support tests/fuzz tests/cuda tests/unit tests/oracle tests/golden tests/property tests/system)))
HEADERS  := $(sort $(wildcard $(addsuffix /*.h,daemon daemon/base stream gpu gpu/host gpu/cuda decoder tools \
	tests/support tests/fuzz tests/oracle tests/cuda/harness)))
CUDA_SOURCES := $(wildcard gpu/cuda/*.cu gpu/cuda/*.cuh tests/cuda/*.cu tests/cuda/harness/*.cpp)
format:
	clang-format -i $(SOURCES) $(HEADERS) $(CUDA_SOURCES)

# Static analysis, again only for what has changed: an object file knows its headers, and is older than the stamp
# of its analysis. Of the kernels, the variants that this machine can read.
TIDY := $(patsubst %.c,$(BUILD)/%.tidy,$(filter-out $(KERNEL_SRC),$(SOURCES))) \
	$(foreach i,$(ISAS),$(patsubst %.c,$(BUILD)/%.$(i).tidy,$(KERNEL_SRC)))
tidy: $(TIDY)

define tidy_recipe
@mkdir -p $(@D)
@clang-tidy --quiet $< -- $(STD) $(CPPFLAGS) $(1) >$@.log 2>&1 || { cat $@.log; exit 1; }
@mv $@.log $@
endef
define isa_tidy_rule
$(BUILD)/%.$(1).tidy: %.c $(BUILD)/%.$(1).o .clang-tidy tests/.clang-tidy
	$$(call tidy_recipe,$(ISA_$(1)) -DKERNEL_ISA=$(1))
endef
$(BUILD)/%.tidy: %.c $(BUILD)/%.o .clang-tidy tests/.clang-tidy
	$(call tidy_recipe)
$(foreach i,$(ISAS),$(eval $(call isa_tidy_rule,$(i))))

# --- installation ------------------------------------------------------------------------------------------------
# bin/, units for the system and for users, user and folders of the service, and an example configuration made from the
# table of settings. Nothing is enabled or started, and nothing under /etc is touched.
PLUGIN_INSTALLED := lib/captiond/$(notdir $(CUDA_PLUGIN))
UNITS    := captiond.service captiond.socket captiond-control.socket
UNITS_OF_BOTH := captiond-gpu.service
INSTALLED := $(patsubst $(BUILD)/%,bin/%,$(PROGRAMS)) \
	$(foreach m,system user,$(addprefix lib/systemd/$(m)/,$(UNITS) $(UNITS_OF_BOTH))) \
	lib/sysusers.d/captiond.conf lib/tmpfiles.d/captiond.conf share/captiond/captiond.conf.example \
	$(if $(filter 1,$(CUDA)),$(PLUGIN_INSTALLED))
# Whether or not this build has one: what another one has installed would not fit the programs.
plugin_uninstall = rm -f '$(DESTDIR)$(PREFIX)/$(PLUGIN_INSTALLED)'; rmdir '$(DESTDIR)$(PREFIX)/$(dir $(PLUGIN_INSTALLED))' 2>/dev/null || :

install: programs
	install -d $(foreach d,$(sort $(dir $(INSTALLED))),'$(DESTDIR)$(PREFIX)/$(d)')
	install -m 755 $(PROGRAMS) '$(DESTDIR)$(PREFIX)/bin'
	$(if $(filter 1,$(CUDA)),install -m 644 $(CUDA_PLUGIN) '$(DESTDIR)$(PREFIX)/lib/captiond',$(plugin_uninstall))
	for unit in $(addprefix system/,$(UNITS)) $(addprefix user/,$(UNITS)); do \
		to='$(DESTDIR)$(PREFIX)'/lib/systemd/$$unit; \
		sed 's,@bindir@,$(PREFIX)/bin,' systemd/$$unit >"$$to" && chmod 644 "$$to" || exit 1; \
	done
	for manager in system user; do \
		install -m 644 $(addprefix systemd/,$(UNITS_OF_BOTH)) '$(DESTDIR)$(PREFIX)'/lib/systemd/$$manager || exit 1; \
	done
	install -m 644 systemd/sysusers.conf '$(DESTDIR)$(PREFIX)/lib/sysusers.d/captiond.conf'
	install -m 644 systemd/tmpfiles.conf '$(DESTDIR)$(PREFIX)/lib/tmpfiles.d/captiond.conf'
	$(BUILD)/captiond --config /dev/null --print-config >'$(DESTDIR)$(PREFIX)/share/captiond/captiond.conf.example'
	chmod 644 '$(DESTDIR)$(PREFIX)/share/captiond/captiond.conf.example'

uninstall:
	rm -f $(foreach f,$(INSTALLED),'$(DESTDIR)$(PREFIX)/$(f)')
	$(plugin_uninstall)
	rmdir '$(DESTDIR)$(PREFIX)/share/captiond' 2>/dev/null || :

clean:
	rm -rf build build-*

help:
	@sed -n 's/^#   //p' Makefile

.PRECIOUS: $(BUILD)/%.o
-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
