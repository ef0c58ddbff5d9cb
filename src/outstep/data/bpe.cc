#include "outstep/data/bpe.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <queue>
#include <span>
#include <string_view>
#include <tuple>

#include "outstep/base/errors.h"
#include "outstep/base/hash.h"
#include "outstep/base/text.h"
#include "outstep/data/pieces.h"

namespace outstep::data {
namespace {

uint64_t pair_key(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

// What a pair becomes: the rank above, the merged id below, so that the smaller is the one to merge
// first.
using Merge = uint64_t;
constexpr Merge kNoMerge = ~uint64_t{0};
int32_t merged_id(Merge merge) { return static_cast<int32_t>(merge & 0xffffffff); }

// Pairs to merges: open addressing, at most half full.
class MergeTable {
 public:
  explicit MergeTable(size_t num_merges)
      : slots_(std::bit_ceil(2 * num_merges + 2)), shift_(64 - std::countr_zero(slots_.size())) {}

  // False if the pair is there already.
  bool insert(uint64_t key, Merge merge) {
    Slot& slot = slots_[place_of(key)];
    if (slot.merge != kNoMerge) return false;
    slot = {key, merge};
    return true;
  }
  Merge find(int32_t left, int32_t right) const {
    return slots_[place_of(pair_key(left, right))].merge;
  }

 private:
  struct Slot {
    uint64_t key = 0;
    Merge merge = kNoMerge;
  };
  size_t place_of(uint64_t key) const {
    size_t place = (key * 0x9e3779b97f4a7c15) >> shift_;
    while (slots_[place].merge != kNoMerge && slots_[place].key != key) {
      place = (place + 1) & (slots_.size() - 1);
    }
    return place;
  }

  std::vector<Slot> slots_;
  int shift_;
};

// Remembers the ids of pieces met before, during one encode. Borrows the pieces.
class PieceCache {
 public:
  explicit PieceCache(size_t text_size)
      : slots_(std::clamp(std::bit_ceil(text_size / 16 + 1), kMinSlots, kMaxSlots)) {}

  struct Slot {
    std::string_view piece = {};  // no data: free
    uint32_t first = 0;           // its ids in arena_
    uint32_t num = 0;
  };
  // The piece's slot, or the free one that it could take.
  Slot& find(std::string_view piece) {
    size_t place = hash64(std::as_bytes(std::span(piece))) & (slots_.size() - 1);
    while (slots_[place].piece.data() != nullptr && slots_[place].piece != piece) {
      place = (place + 1) & (slots_.size() - 1);
    }
    return slots_[place];
  }
  std::span<const int32_t> ids(const Slot& slot) const {
    return {arena_.data() + slot.first, slot.num};
  }

  void keep(Slot& slot, std::string_view piece, std::span<const int32_t> ids) {
    if (2 * num_kept_ >= slots_.size()) return;
    slot = {piece, static_cast<uint32_t>(arena_.size()), static_cast<uint32_t>(ids.size())};
    arena_.insert(arena_.end(), ids.begin(), ids.end());
    ++num_kept_;
  }

 private:
  static constexpr size_t kMinSlots = 64;
  static constexpr size_t kMaxSlots = size_t{1} << 17;
  std::vector<Slot> slots_;
  std::vector<int32_t> arena_;
  size_t num_kept_ = 0;
};

// Merges a short piece in place; quadratic, but all in a few cache lines. Returns how many ids are
// left.
size_t merge_short(const MergeTable& table, std::span<int32_t> ids, std::span<Merge> merges) {
  size_t num = ids.size();
  for (size_t i = 0; i + 1 < num; ++i) merges[i] = table.find(ids[i], ids[i + 1]);
  while (num > 1) {
    const auto best = std::min_element(merges.begin(), merges.begin() + static_cast<long>(num) - 1);
    if (*best == kNoMerge) break;
    const auto at = static_cast<size_t>(best - merges.begin());
    ids[at] = merged_id(*best);
    std::copy(ids.begin() + static_cast<long>(at) + 2, ids.begin() + static_cast<long>(num),
              ids.begin() + static_cast<long>(at) + 1);
    std::copy(merges.begin() + static_cast<long>(at) + 1,
              merges.begin() + static_cast<long>(num) - 1, merges.begin() + static_cast<long>(at));
    --num;
    if (at + 1 < num) merges[at] = table.find(ids[at], ids[at + 1]);
    if (at > 0) merges[at - 1] = table.find(ids[at - 1], ids[at]);
  }
  return num;
}

// Merges a piece of any length in n log n: a linked list, and a heap of candidate pairs, stale ones
// skipped.
size_t merge_long(const MergeTable& table, std::span<int32_t> ids) {
  constexpr size_t kNone = ~size_t{0};
  const size_t num = ids.size();
  std::vector<size_t> before(num);
  std::vector<size_t> after(num);
  using Candidate =
      std::tuple<Merge, size_t, uint64_t>;  // merge, left place, the pair it was found for
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> heap;
  const auto consider = [&](size_t left) {
    if (left == kNone || after[left] == kNone) return;
    const Merge merge = table.find(ids[left], ids[after[left]]);
    if (merge != kNoMerge) heap.emplace(merge, left, pair_key(ids[left], ids[after[left]]));
  };
  for (size_t i = 0; i < num; ++i) {
    before[i] = i == 0 ? kNone : i - 1;
    after[i] = i + 1 < num ? i + 1 : kNone;
  }
  for (size_t i = 0; i < num; ++i) consider(i);
  constexpr int32_t kGone = -1;
  while (!heap.empty()) {
    const auto [merge, left, key] = heap.top();
    heap.pop();
    const size_t right = after[left];
    if (ids[left] == kGone || right == kNone || pair_key(ids[left], ids[right]) != key) continue;
    ids[left] = merged_id(merge);
    ids[right] = kGone;
    after[left] = after[right];
    if (after[left] != kNone) before[after[left]] = left;
    consider(left);
    consider(before[left]);
  }
  return static_cast<size_t>(std::remove(ids.begin(), ids.end(), kGone) - ids.begin());
}

}  // namespace

struct BpeTokenizer::Engine {
  static constexpr size_t kShortPiece = 64;  // bytes; longer ones are rare and not cached

  explicit Engine(BpeTables given) : tables(std::move(given)), merges(tables.merges.size()) {
    check_tables();
    byte_ids.fill(-1);
    for (size_t id = 0; id < tables.tokens.size(); ++id) {
      const std::string& token = tables.tokens[id];
      const bool special =
          std::find(tables.specials.begin(), tables.specials.end(), id) != tables.specials.end();
      if (token.size() == 1 && !special)
        byte_ids[static_cast<uint8_t>(token[0])] = static_cast<int32_t>(id);
    }
    for (size_t byte = 0; byte < 256; ++byte) {
      if (byte_ids[byte] < 0) {
        throw DataError(
            "{}: byte {:#04x} has no token; a byte-level vocabulary has one for each of the 256",
            tables.name, byte);
      }
    }
    for (size_t rank = 0; rank < tables.merges.size(); ++rank) {
      const auto [left, right] = tables.merges[rank];
      const Merge merge =
          static_cast<uint64_t>(rank) << 32 | static_cast<uint32_t>(tables.merged[rank]);
      if (!merges.insert(pair_key(left, right), merge)) {
        throw DataError("{}: merge {} repeats an earlier one", tables.name,
                        with_commas(static_cast<int64_t>(rank)));
      }
    }
    fingerprint = hash_tables();
  }

  void check_tables() const {
    const auto in_range = [this](int32_t id) {
      return id >= 0 && static_cast<size_t>(id) < tables.tokens.size();
    };
    check(tables.merges.size() == tables.merged.size(), "every merge makes a token");
    for (size_t rank = 0; rank < tables.merges.size(); ++rank) {
      const auto [left, right] = tables.merges[rank];
      check(in_range(left) && in_range(right) && in_range(tables.merged[rank]),
            "merges are between tokens");
    }
    for (const int32_t id : tables.specials) {
      check(in_range(id) && !tables.tokens[static_cast<size_t>(id)].empty(), "specials are tokens");
    }
  }

  uint64_t hash_tables() const {
    uint64_t hash = 0;
    for (const std::string& token : tables.tokens) {
      hash = hash64(std::as_bytes(std::span(token)), hash ^ token.size());
    }
    hash = hash64(std::as_bytes(std::span(tables.merges)), hash);
    hash = hash64(std::as_bytes(std::span(tables.merged)), hash);
    return hash64(std::as_bytes(std::span(tables.specials)), hash);
  }

  void encode_piece(std::string_view piece, std::vector<int32_t>& ids) const {
    const size_t begin = ids.size();
    for (const char byte : piece) ids.push_back(byte_ids[static_cast<uint8_t>(byte)]);
    const auto fresh = std::span(ids).subspan(begin);
    size_t left = 0;
    if (piece.size() <= kShortPiece) {
      std::array<Merge, kShortPiece> room;
      left = merge_short(merges, fresh, room);
    } else {
      left = merge_long(merges, fresh);
    }
    ids.resize(begin + left);
  }

  // Text without specials.
  void encode_ordinary(std::string_view text, PieceCache& cache, std::vector<int32_t>& ids) const {
    PieceCutter cutter(text);
    for (std::string_view piece = cutter.next(); !piece.empty(); piece = cutter.next()) {
      if (piece.size() > kShortPiece) {
        encode_piece(piece, ids);
        continue;
      }
      PieceCache::Slot& slot = cache.find(piece);
      if (slot.piece.data() != nullptr) {
        const auto known = cache.ids(slot);
        ids.insert(ids.end(), known.begin(), known.end());
      } else {
        const size_t begin = ids.size();
        encode_piece(piece, ids);
        cache.keep(slot, piece, std::span(ids).subspan(begin));
      }
    }
  }

  BpeTables tables;
  std::array<int32_t, 256> byte_ids{};
  MergeTable merges;
  uint64_t fingerprint = 0;
};

BpeTokenizer::BpeTokenizer(BpeTables tables)
    : engine_(std::make_unique<const Engine>(std::move(tables))) {}

BpeTokenizer::~BpeTokenizer() = default;

std::vector<int32_t> BpeTokenizer::encode(std::string_view text) const {
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 3);
  PieceCache cache(text.size());
  const auto& tables = engine_->tables;
  // The next place of each special; looked for again only when passed, so that the whole costs one
  // search each.
  std::vector<size_t> next(tables.specials.size(), 0);
  size_t begin = 0;
  while (true) {
    size_t first = std::string_view::npos;
    int32_t special = -1;
    for (size_t s = 0; s < tables.specials.size(); ++s) {
      const std::string& token = tables.tokens[static_cast<size_t>(tables.specials[s])];
      if (next[s] != std::string_view::npos && (begin == 0 || next[s] < begin))
        next[s] = text.find(token, begin);
      const bool longer = special >= 0 && next[s] == first && first != std::string_view::npos &&
                          token.size() > tables.tokens[static_cast<size_t>(special)].size();
      if (next[s] < first || longer) {
        first = next[s];
        special = tables.specials[s];
      }
    }
    const size_t end = std::min(first, text.size());
    engine_->encode_ordinary(text.substr(begin, end - begin), cache, ids);
    if (special < 0) return ids;
    ids.push_back(special);
    begin = first + tables.tokens[static_cast<size_t>(special)].size();
  }
}

std::string BpeTokenizer::decode(std::span<const int32_t> ids) const {
  std::string text;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= vocab_size()) {
      throw DataError("token {} is {}, but {} has ids 0 to {}", i, ids[i], describe(),
                      vocab_size() - 1);
    }
    text += engine_->tables.tokens[static_cast<size_t>(ids[i])];
  }
  return text;
}

int64_t BpeTokenizer::vocab_size() const {
  return static_cast<int64_t>(engine_->tables.tokens.size());
}

std::optional<int32_t> BpeTokenizer::end_of_text() const {
  for (const int32_t id : engine_->tables.specials) {
    if (engine_->tables.tokens[static_cast<size_t>(id)] == "<|endoftext|>") return id;
  }
  return std::nullopt;
}

uint64_t BpeTokenizer::fingerprint() const { return engine_->fingerprint; }

std::string BpeTokenizer::describe() const {
  return fmt::format("byte-level BPE of {} tokens ({})", with_commas(vocab_size()),
                     engine_->tables.name);
}

}  // namespace outstep::data
