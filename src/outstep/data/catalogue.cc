#include "outstep/data/catalogue.h"

#include <cctype>

#include "outstep/base/errors.h"
#include "outstep/base/text.h"

namespace outstep::data {
namespace {

CatalogueEntry cifar10() {
  const auto batch = [](const std::string& name, const std::string& sha256) {
    return CatalogueFile{.name = name,
                         .num_bytes = 30'730'000,
                         .sha256 = sha256,
                         .member = "cifar-10-batches-bin/" + name};
  };
  return {
      .name = "cifar10",
      .folder = "cifar-10-batches-bin",
      .what = "CIFAR-10: 60,000 photographs of 32×32 pixels in 10 classes",
      .licence =
          "none stated; the authors ask to cite \"Learning Multiple Layers of Features from Tiny "
          "Images\"",
      .source =
          "Alex Krizhevsky, Vinod Nair, Geoffrey Hinton, 2009; "
          "https://www.cs.toronto.edu/~kriz/cifar.html",
      .archives = {{.name = "cifar-10-binary.tar.gz",
                    .num_bytes = 170'052'171,
                    .sha256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
                    .addresses = {"https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"}}},
      .files = {batch("data_batch_1.bin",
                      "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5"),
                batch("data_batch_2.bin",
                      "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed"),
                batch("data_batch_3.bin",
                      "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67"),
                batch("data_batch_4.bin",
                      "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48"),
                batch("data_batch_5.bin",
                      "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add"),
                batch("test_batch.bin", "")}};
}

CatalogueEntry cifar100() {
  return {
      .name = "cifar100",
      .folder = "cifar-100-binary",
      .what = "CIFAR-100: 60,000 photographs of 32×32 pixels in 100 classes",
      .licence =
          "none stated; the authors ask to cite \"Learning Multiple Layers of Features from Tiny "
          "Images\"",
      .source =
          "Alex Krizhevsky, Vinod Nair, Geoffrey Hinton, 2009; "
          "https://www.cs.toronto.edu/~kriz/cifar.html",
      .archives = {{.name = "cifar-100-binary.tar.gz",
                    .num_bytes = 168'513'733,
                    .sha256 = "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
                    .addresses = {"https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz"}}},
      .files = {
          {.name = "train.bin", .num_bytes = 153'700'000, .member = "cifar-100-binary/train.bin"},
          {.name = "test.bin", .num_bytes = 30'740'000, .member = "cifar-100-binary/test.bin"}}};
}

// The four files of an IDX set, each at every base address.
struct IdxFile {
  std::string name;
  int64_t num_bytes;
  std::string sha256;
  std::string content_sha256;
};
std::vector<CatalogueFile> idx_files(const std::vector<IdxFile>& files,
                                     const std::vector<std::string>& bases) {
  std::vector<CatalogueFile> result;
  for (const IdxFile& file : files) {
    result.push_back({.name = file.name,
                      .num_bytes = file.num_bytes,
                      .sha256 = file.sha256,
                      .content_sha256 = file.content_sha256});
    for (const std::string& base : bases) result.back().addresses.push_back(base + file.name);
  }
  return result;
}

CatalogueEntry fashion_mnist() {
  return {.name = "fashion_mnist",
          .folder = "fashion-mnist",
          .what = "Fashion-MNIST: 70,000 grey pictures of clothing of 28×28 pixels in 10 classes",
          .licence = "MIT",
          .source = "Zalando Research, 2017; https://github.com/zalandoresearch/fashion-mnist",
          .files = idx_files({{"train-images-idx3-ubyte.gz", 26'421'880,
                               "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                               "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"},
                              {"train-labels-idx1-ubyte.gz", 29'515,
                               "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                               "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"},
                              {"t10k-images-idx3-ubyte.gz", 4'422'102,
                               "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                               "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"},
                              {"t10k-labels-idx1-ubyte.gz", 5'148,
                               "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
                               "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"}},
                             {"http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
                              "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/"
                              "master/data/fashion/"})};
}

CatalogueEntry mnist() {
  return {.name = "mnist",
          .folder = "mnist",
          .what = "MNIST: 70,000 grey handwritten digits of 28×28 pixels",
          .licence = "CC BY-SA 3.0, as is generally stated",
          .source =
              "Yann LeCun, Corinna Cortes, Christopher J. C. Burges, 1998; "
              "http://yann.lecun.com/exdb/mnist/",
          .files = idx_files({{"train-images-idx3-ubyte.gz", 9'912'422,
                               "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                               "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"},
                              {"train-labels-idx1-ubyte.gz", 28'881,
                               "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                               "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"},
                              {"t10k-images-idx3-ubyte.gz", 1'648'877,
                               "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                               "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"},
                              {"t10k-labels-idx1-ubyte.gz", 4'542,
                               "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
                               "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"}},
                             {"https://ossci-datasets.s3.amazonaws.com/mnist/",
                              "https://storage.googleapis.com/cvdf-datasets/mnist/"})};
}

CatalogueEntry tinyshakespeare() {
  return {
      .name = "tinyshakespeare",
      .folder = "tinyshakespeare",
      .what =
          "40,000 lines of Shakespeare's plays, 1.1 MB of text (the sample that comes with "
          "Outstep, in one file)",
      .licence = "public domain",
      .source = "compiled by Andrej Karpathy; https://github.com/karpathy/char-rnn",
      .files = {
          {.name = "input.txt",
           .num_bytes = 1'115'394,
           .sha256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
           .addresses = {
               "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/"
               "input.txt"}}}};
}

CatalogueEntry english_classics() {
  return {
      .name = "english-classics",
      .folder = "english-classics",
      .what = "22 English novels and tales of 1811 to 1898, 12.5 MB of text split by book",
      .licence = "public domain",
      .source =
          "Markdown editions of https://github.com/mlschmitt/classic-books-markdown, joined; no "
          "address has them",
      .files = {{.name = "train.txt",
                 .num_bytes = 11'358'679,
                 .sha256 = "c2f5c7596e5d2449adfa50a31eb3372cc1861c58d646c87df3bea0bc1d6e6640"},
                {.name = "valid.txt",
                 .num_bytes = 608'687,
                 .sha256 = "3abc2563e7e4d9f3bfc21e3393eec67ce322af028f46e1e4e0cfdac589c29882"},
                {.name = "test.txt",
                 .num_bytes = 551'109,
                 .sha256 = "241e36d93e6add05fce0fac06140a4610e120d302119792a668a7bce8113f98a"}}};
}

CatalogueEntry gpt2_bpe() {
  const std::string base = "https://openaipublic.blob.core.windows.net/gpt-2/models/124M/";
  return {.name = "gpt2-bpe",
          .folder = "gpt2-bpe",
          .what = "GPT-2's tokenizer: 50,257 tokens (it comes with Outstep, too)",
          .licence = "OpenAI's modified MIT",
          .source = "OpenAI, 2019; https://github.com/openai/gpt-2",
          .files = {{.name = "encoder.json",
                     .num_bytes = 1'042'301,
                     .sha256 = "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
                     .addresses = {base + "encoder.json"}},
                    {.name = "vocab.bpe",
                     .num_bytes = 456'318,
                     .sha256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
                     .addresses = {base + "vocab.bpe"}}}};
}

// "CIFAR-10" and "cifar_10" as "cifar10".
std::string plain(const std::string& name) {
  std::string result;
  for (const char c : name) {
    if (c != '-' && c != '_')
      result.push_back(static_cast<char>(std::tolower(static_cast<unsigned char>(c))));
  }
  return result;
}

}  // namespace

int64_t CatalogueEntry::download_bytes() const {
  int64_t bytes = 0;
  for (const CatalogueArchive& archive : archives) bytes += archive.num_bytes;
  for (const CatalogueFile& file : files) {
    if (file.member.empty()) bytes += file.num_bytes;
  }
  return bytes;
}

bool CatalogueEntry::has_address() const {
  return !archives.empty() || !files.front().addresses.empty();
}

const std::vector<CatalogueEntry>& catalogue() {
  static const std::vector<CatalogueEntry> entries = {
      cifar10(),         cifar100(),         fashion_mnist(), mnist(),
      tinyshakespeare(), english_classics(), gpt2_bpe()};
  return entries;
}

const CatalogueEntry& find_in_catalogue(const std::string& name) {
  std::vector<std::string> names;
  for (const CatalogueEntry& entry : catalogue()) {
    if (plain(entry.name) == plain(name)) return entry;
    names.push_back(entry.name);
  }
  const std::string nearest = nearest_spelling(name, names);
  const auto hint =
      nearest.empty() ? std::string() : fmt::format("; did you mean \"{}\"?", nearest);
  throw ConfigError("there is no data \"{}\" to get{}\n  There are: {}", name, hint,
                    join(names, ", "));
}

}  // namespace outstep::data
