#include "outstep/base/memory.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/alloc_cpu.h>
#include <malloc.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <fstream>
#include <limits>
#include <map>
#include <mutex>
#include <string>
#include <unordered_map>

#if defined(__has_include) && __has_include(<sanitizer/asan_interface.h>)
#include <sanitizer/asan_interface.h>
#endif

namespace outstep::memory {

namespace {

// Blocks smaller than this go straight to malloc, which keeps them well itself.
constexpr size_t kSmallestKept = 64 * 1024;

// Lets the address sanitizer report a use of a block that is kept for reuse as a use after free.
#if defined(__SANITIZE_ADDRESS__)
#define OUTSTEP_ADDRESS_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define OUTSTEP_ADDRESS_SANITIZER 1
#endif
#endif
#ifdef OUTSTEP_ADDRESS_SANITIZER
void forbid(void* block, size_t size) { __asan_poison_memory_region(block, size); }
void allow(void* block, size_t size) { __asan_unpoison_memory_region(block, size); }
#else
void forbid(void* /*block*/, size_t /*size*/) {}
void allow(void* /*block*/, size_t /*size*/) {}
#endif

// Rounds to one of eight sizes per power of two, so that a freed block fits the next request of
// about its size.
size_t size_class(size_t num_bytes) {
  const size_t step = std::bit_floor(num_bytes) / 8;
  return (num_bytes + step - 1) / step * step;
}

class KeepingAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t num_bytes) override {
    void* data = num_bytes == 0 ? nullptr : take(num_bytes);
    return {data, data, &KeepingAllocator::give_back, at::Device(at::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &KeepingAllocator::give_back; }
  void copy_data(void* to, const void* from, size_t count) const override {
    default_copy_data(to, from, count);
  }

  int64_t kept_bytes() {
    std::lock_guard lock(mutex_);
    return kept_bytes_;
  }

  std::atomic<int64_t> live{0};
  std::atomic<int64_t> peak{0};

 private:
  // A block of the kept kind: what was asked for counts as live, its size class decides who may
  // reuse it.
  struct Block {
    size_t requested;
    size_t size;
  };
  struct Kept {
    void* data;
    int64_t num_bytes;  // last asked for in it
  };

  void* take(size_t num_bytes) {
    if (num_bytes < kSmallestKept) {
      void* data = allocate_new(num_bytes);
      count(static_cast<int64_t>(malloc_usable_size(data)));
      return data;
    }
    const Block block{num_bytes, size_class(num_bytes)};
    void* data = reuse(block);
    if (!data) {
      make_room(static_cast<int64_t>(num_bytes));
      data = allocate_new(block.size);
      std::lock_guard lock(mutex_);
      blocks_[data] = block;
    }
    count(static_cast<int64_t>(num_bytes));
    return data;
  }

  // From the system; what is kept goes back before an allocation is given up.
  void* allocate_new(size_t num_bytes) {
    try {
      return c10::alloc_cpu(num_bytes);
    } catch (const c10::Error&) {
      if (!release_all()) throw;
      return c10::alloc_cpu(num_bytes);
    }
  }

  // Before a new block: gives back as much of what is kept as would take live and kept bytes beyond
  // the peak, be it the one so far or the one that this block makes.
  void make_room(int64_t num_bytes) {
    std::lock_guard lock(mutex_);
    const int64_t soon_live = live + num_bytes;
    release(soon_live + kept_bytes_ - std::max(peak.load(), soon_live));
  }

  bool release_all() {  // false if nothing was kept
    std::lock_guard lock(mutex_);
    const bool was_kept = !kept_.empty();
    release(std::numeric_limits<int64_t>::max());
    return was_kept;
  }

  // Gives kept blocks of this many bytes, or all there are, back to the system. The block that fits
  // best goes first: to free more than is needed is to page it in again soon. With mutex_ held.
  void release(int64_t num_bytes) {
    while (num_bytes > 0 && !kept_.empty()) {
      auto block = kept_.lower_bound(static_cast<size_t>(num_bytes));
      if (block == kept_.end()) --block;
      num_bytes -= block->second.num_bytes;
      allow(block->second.data, block->first);
      c10::free_cpu(take_out(block));
    }
  }

  // Takes a block out of those that are kept. With mutex_ held.
  void* take_out(std::multimap<size_t, Kept>::iterator block) {
    void* data = block->second.data;
    kept_bytes_ -= block->second.num_bytes;
    kept_.erase(block);
    return data;
  }

  // A kept block of this size, now live; null if there is none.
  void* reuse(const Block& block) {
    std::lock_guard lock(mutex_);
    auto after = kept_.upper_bound(block.size);  // the last kept is the likeliest to be in a cache
    if (after == kept_.begin() || (--after)->first != block.size) return nullptr;
    void* data = take_out(after);
    blocks_[data] = block;
    allow(data, block.size);
    return data;
  }

  void count(int64_t num_bytes) {
    const int64_t now = live.fetch_add(num_bytes) + num_bytes;
    int64_t seen = peak.load();
    while (now > seen && !peak.compare_exchange_weak(seen, now)) {
    }
  }

  static void give_back(void* data);
  // Whether data was a block of the kept kind; if so, it is kept or freed.
  bool give_back_kept_kind(void* data);

  std::mutex mutex_;
  std::multimap<size_t, Kept> kept_;         // by size class; guarded by mutex_
  int64_t kept_bytes_ = 0;                   // guarded by mutex_
  std::unordered_map<void*, Block> blocks_;  // live, of the kept kind; guarded by mutex_
};

// Never destroyed: tensors with static lifetime give their memory back after main has ended.
KeepingAllocator& allocator() {
  static auto* instance = new KeepingAllocator;
  return *instance;
}

void KeepingAllocator::give_back(void* data) {
  if (!data) return;
  KeepingAllocator& self = allocator();
  const size_t usable = malloc_usable_size(data);
  // A block of the kept kind is never smaller than this, so small ones need no lock.
  if (usable >= kSmallestKept && self.give_back_kept_kind(data)) return;
  self.live.fetch_sub(static_cast<int64_t>(usable));
  c10::free_cpu(data);
}

bool KeepingAllocator::give_back_kept_kind(void* data) {
  {
    std::lock_guard lock(mutex_);
    const auto found = blocks_.find(data);
    if (found == blocks_.end()) return false;
    const Block block = found->second;
    blocks_.erase(found);
    const auto num_bytes = static_cast<int64_t>(block.requested);
    live.fetch_sub(num_bytes);
    if (live + kept_bytes_ + num_bytes <= peak) {
      forbid(data, block.size);
      kept_.emplace(block.size, Kept{data, num_bytes});
      kept_bytes_ += num_bytes;
      return true;
    }
  }
  c10::free_cpu(data);
  return true;
}

int64_t from_proc_status(const std::string& key) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(key)) return std::stoll(line.substr(key.size())) * 1024;
  }
  return 0;
}

std::atomic<bool> installed{false};

}  // namespace

void install() {
  if (!installed.exchange(true)) c10::SetCPUAllocator(&allocator(), /*priority=*/1);
}

int64_t live_bytes() { return allocator().live; }
int64_t peak_bytes() { return allocator().peak; }
void reset_peak() { allocator().peak = allocator().live.load(); }
int64_t kept_bytes() { return allocator().kept_bytes(); }

int64_t rss_bytes() { return from_proc_status("VmRSS:"); }
int64_t peak_rss_bytes() { return from_proc_status("VmHWM:"); }

}  // namespace outstep::memory
