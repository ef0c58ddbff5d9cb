# shellcheck shell=bash
#
# What ./outstep, ./test and .ci/run share: sets up what is missing and builds. Sourced, with $root set to the source tree.
#
#   need_packages clang-format-19     more packages than the build's own
#   bring_up PRESET TARGET            after this, build/PRESET has an up-to-date TARGET ("outstep" or "all")
#
# Everything said goes to stderr. Exit codes: 2 where the machine lacks something, 1 where the build fails.
# Settings: OUTSTEP_TORCH (folder of a LibTorch, instead of torch in .venv), OUTSTEP_BUILD_JOBS.

: "${root:?setup.sh is to be sourced with root set}"
logs=$root/build/logs
[[ -z ${OUTSTEP_TORCH:-} ]] || OUTSTEP_TORCH=$(realpath --no-symlinks --canonicalize-missing -- "$OUTSTEP_TORCH")

# ---- Saying what happens ---------------------------------------------------------------------------------------

say() { printf 'setup %2d:%02d  %s\n' $((SECONDS / 60)) $((SECONDS % 60)) "$*" >&2; }

give_up() { # give_up EXIT_CODE LINE...
  local code=$1 line
  shift
  for line in "$@"; do printf 'setup: %s\n' "$line" >&2; done
  exit "$code"
}

# logged LOG COMMAND...: runs the command with its output in build/logs/LOG, and shows its last line now and then.
logged() {
  local log=$logs/$1
  shift
  mkdir -p "$logs"
  : >"$log"
  "$@" </dev/null 2>&1 | follow "$log"
}

follow() { # stdin to the file $1, and what is new every ten seconds, or a sign of life every minute
  local line='' part='' last='' said='' next=$((SECONDS + 10)) silent=$((SECONDS + 60)) status
  while :; do
    status=0
    IFS= read -r -t 2 part || status=$?
    line+=$part
    if ((status == 0)); then
      printf '%s\n' "$line" >>"$1"
      [[ -z $line || $line == ' '* ]] || last=$line # not the details
      line=''
    elif ((status <= 128)); then # the end
      [[ -z $line ]] || printf '%s\n' "$line" >>"$1"
      return 0
    fi
    if ((SECONDS >= next)); then
      if [[ $last != "$said" ]] || ((SECONDS >= silent)); then
        say "  ${last:0:90}"
        said=$last
        silent=$((SECONDS + 60))
      fi
      next=$((SECONDS + 10))
    fi
  done
}

show_log() { # the end of a log, or a build's first failure, indented
  local log=$logs/$1
  if grep -q '^FAILED: ' "$log"; then
    sed -n '/^FAILED: /,$p' "$log" | grep -vE '^(FAILED|ccache|/usr/bin/ccache|: &&) ' | head -n 60 | sed 's/^/  /' >&2
  else
    tail -n 30 "$log" | sed 's/^/  /' >&2
  fi
}

# ---- One at a time ---------------------------------------------------------------------------------------------

# lock PURPOSE: waits for whoever sets up, builds or tests in this tree. Descriptor 9 holds the lock; a command that
# could leave a process behind is run with 9>&-.
lock() {
  local holder
  mkdir -p "$root/build"
  exec 9>>"$root/build/.lock"
  if ! flock --nonblock 9; then
    holder=$(<"$root/build/.lock")
    say "waiting for ${holder:-another ./outstep or ./test in this tree}"
    flock 9
  fi
  printf '%s, process %d, since %(%H:%M:%S)T\n' "$1" $$ -1 >"$root/build/.lock"
}

unlock() { exec 9>&-; }

# ---- Packages --------------------------------------------------------------------------------------------------

libraries=(libcli11-dev libtomlplusplus-dev libspdlog-dev libfmt-dev nlohmann-json3-dev libxxhash-dev libutf8proc-dev
  libcurl4-openssl-dev libssl-dev zlib1g-dev libopenmpi-dev openmpi-bin libgtest-dev libgmock-dev libbenchmark-dev)

as_root() {
  if ((EUID == 0)); then "$@"; else sudo -n "$@"; fi
}

# What waits for dpkg's lock does not wait for that of the package lists, which another apt-get or a daily timer may hold.
apt_update() {
  local end=$((SECONDS + 300)) waiting=''
  until logged apt.log as_root env LC_ALL=C apt-get -o DPkg::Lock::Timeout=300 update; do
    if ((SECONDS >= end)) || ! grep -qE 'Could not get lock|Unable to lock' "$logs/apt.log"; then return 1; fi
    [[ -n $waiting ]] || say "  waiting for another apt-get, at most 5 min"
    waiting=yes
    sleep 5
  done
}

apt_install() { # takes up again what an interrupted dpkg left behind
  local install=(apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "$@")
  as_root env DEBIAN_FRONTEND=noninteractive "${install[@]}" && return
  as_root dpkg --configure -a && as_root env DEBIAN_FRONTEND=noninteractive "${install[@]}"
}

# need_packages NAME...: installs those that are missing, or says how to and exits.
need_packages() {
  command -v dpkg-query >/dev/null || return 0 # another system: CMake will say what it does not find
  local known missing=() name
  known=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" 2>/dev/null) || true
  for name in "$@"; do
    grep -qx "installed $name" <<<"$known" || missing+=("$name")
  done
  ((${#missing[@]})) || return 0
  local by_hand="sudo apt-get update && sudo apt-get install -y --no-install-recommends ${missing[*]}"
  if ! can_install; then
    give_up 2 "these packages are missing, and installing them takes root. Run this, then the same command again:" \
      "  $by_hand"
  fi
  say "Debian packages, ${#missing[@]} missing: ${missing[*]}"
  # A list that cannot be refreshed (no network) may still do.
  apt_update || say "  apt-get update failed; trying with the package lists that are there"
  if ! logged apt.log apt_install "${missing[@]}"; then
    show_log apt.log
    give_up 2 "apt-get could not install these packages (all it said: build/logs/apt.log). By hand:" "  $by_hand"
  fi
}

has_package() { apt-cache show "$1" >/dev/null 2>&1; }

version_of() { # major version of a compiler
  local version
  version=$("$1" -dumpversion 2>/dev/null) && printf '%s' "${version%%.*}"
}

# Sets compiler: clang++-19, else another clang++ of at least 16, else a g++ of at least 12.
choose_compiler() {
  local candidate
  compiler=''
  for candidate in clang++-19 clang++-2{9..0} clang++-18 clang++-17 clang++-16 clang++ g++-1{5..2} g++; do
    local least=16
    [[ $candidate == clang* ]] || least=12
    if (($(version_of "$candidate" || echo 0) >= least)); then
      compiler=$candidate
      return
    fi
  done
}

can_install() { command -v apt-get >/dev/null && { ((EUID == 0)) || sudo -n true 2>/dev/null; }; }

need_tools() { # need_tools PRESET
  local tools=(cmake ninja-build mold ccache pkg-config)
  python3 -c 'import ensurepip, venv' 2>/dev/null || tools+=(python3 python3-venv)
  if [[ $1 == gcc ]]; then
    tools+=(g++)
  elif ! command -v clang++-19 >/dev/null; then
    # The lists of a new machine are empty: what it could install is known only after an update.
    if ! has_package clang-19 && can_install; then apt_update || true; fi
    choose_compiler
    if has_package clang-19; then
      tools+=(clang-19 libclang-rt-19-dev)
    elif [[ -z $compiler ]]; then
      tools+=(g++)
    fi
  elif [[ $1 == [at]san ]] && has_package libclang-rt-19-dev; then
    tools+=(libclang-rt-19-dev)
  fi
  need_packages "${tools[@]}" "${libraries[@]}"
}

# ---- torch -----------------------------------------------------------------------------------------------------

# The folder of the LibTorch to build with.
torch_folder() {
  if [[ -n ${OUTSTEP_TORCH:-} ]]; then
    printf '%s' "$OUTSTEP_TORCH"
  else
    local found=("$root"/.venv/lib/python3*/site-packages/torch)
    printf '%s' "${found[0]}"
  fi
}

need_torch() {
  local venv=$root/.venv
  if [[ -n ${OUTSTEP_TORCH:-} ]]; then
    [[ -e $OUTSTEP_TORCH/include/ATen/ATen.h ]] ||
      give_up 2 "OUTSTEP_TORCH=$OUTSTEP_TORCH is no LibTorch: it has no include/ATen/ATen.h." \
        "Name a folder that holds include/ and lib/, or unset OUTSTEP_TORCH to have torch set up in .venv."
    return
  fi
  # .venv/requirements.done is a copy of the requirements that were installed to the end; .venv/unfinished marks a .venv
  # that was made here, where nobody else's work is lost with it, and whose first installation has not ended.
  cmp -s "$root/requirements.txt" "$venv/requirements.done" && [[ -e $(torch_folder)/include/ATen/ATen.h ]] && return
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null ||
    give_up 2 "python3 of at least 3.10 is needed to install torch; this is $(python3 --version 2>&1)."
  if [[ -e $venv/unfinished ]]; then
    say "an earlier set-up of .venv was interrupted; starting it again"
    rm -rf "$venv"
  fi
  say "$(grep -E '^torch' "$root/requirements.txt") into .venv with pip: about 1 GB, or several where its index has a CUDA"
  say "  build, as PyPI has; PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu gets the small one"
  if [[ ! -x $venv/bin/python ]]; then
    [[ -e $venv ]] || { mkdir "$venv" && touch "$venv/unfinished"; }
    if ! logged venv.log python3 -m venv "$venv"; then
      show_log venv.log
      give_up 2 "python3 -m venv failed (all it said: build/logs/venv.log)"
    fi
  fi
  local status=0
  logged pip.log "$venv/bin/python" -m pip install --disable-pip-version-check --progress-bar off --no-compile \
    -r "$root/requirements.txt" || status=$?
  if ((status)); then
    show_log pip.log
    ((status > 128)) || rm -f "$venv/unfinished" # unless killed, pip has cleaned up after itself
    give_up 2 "pip could not install requirements.txt into .venv (all it said: build/logs/pip.log)." \
      "Without a network, point OUTSTEP_TORCH at a LibTorch of that version."
  fi
  cp "$root/requirements.txt" "$venv/requirements.done"
  rm -f "$venv/unfinished"
}

# ---- Build -----------------------------------------------------------------------------------------------------

num_jobs() { # one a core, and no more than there is memory for (1.5 GB each)
  if [[ -n ${OUTSTEP_BUILD_JOBS:-} ]]; then
    [[ $OUTSTEP_BUILD_JOBS =~ ^[1-9][0-9]*$ ]] ||
      give_up 2 "OUTSTEP_BUILD_JOBS=$OUTSTEP_BUILD_JOBS is no positive number"
    printf '%d' "$OUTSTEP_BUILD_JOBS"
    return
  fi
  local cores available
  cores=$(nproc)
  available=$(awk '/^MemAvailable:/ { print int($2 / 1500000) }' /proc/meminfo)
  ((available >= 1)) || available=1
  printf '%d' $((cores < available ? cores : available))
}

# The preset's arguments for this machine, one a line; where they change, the build folder is configured afresh.
configuration() {
  printf '%s\n' --preset "$1" -S "$root" "-DOUTSTEP_TORCH=${OUTSTEP_TORCH:-}"
  command -v ccache >/dev/null || printf '%s\n' -DCMAKE_CXX_COMPILER_LAUNCHER=
  command -v mold >/dev/null || printf '%s\n' -DCMAKE_EXE_LINKER_FLAGS=
  [[ $1 != gcc && $compiler != clang++-19 ]] || return 0
  printf '%s\n' "-DCMAKE_CXX_COMPILER=$compiler"
  [[ $compiler == clang* ]] || printf '%s\n' -DOUTSTEP_PRECOMPILE=OFF
}

configure() { # configure PRESET
  local folder=$root/build/$1 wanted arguments
  choose_compiler
  wanted=$(configuration "$1")
  if [[ -e $folder/build.ninja && $(cat "$folder/configuration" 2>/dev/null) == "$wanted" ]]; then return; fi
  mapfile -t arguments <<<"$wanted"
  case $wanted in
    *CMAKE_CXX_COMPILER=*) say "note: this system has no clang++-19; building with $compiler" ;;
  esac
  say "configure build/$1"
  if ! (cd "$root" && logged "configure-$1.log" cmake --fresh "${arguments[@]}"); then
    show_log "configure-$1.log"
    give_up 1 "CMake could not configure build/$1 (all it said: build/logs/configure-$1.log)"
  fi
  printf '%s\n' "$wanted" >"$folder/configuration"
}

build() { # build PRESET TARGET
  local jobs begin=$SECONDS
  jobs=$(num_jobs) || exit
  say "build $2 in build/$1 with $jobs jobs"
  export CCACHE_SLOPPINESS=pch_defines,time_macros NINJA_STATUS='%f of %t  '
  if ! logged "build-$1.log" ninja -C "$root/build/$1" -j "$jobs" "$2"; then
    show_log "build-$1.log"
    give_up 1 "the build failed (all it said: build/logs/build-$1.log)"
  fi
  say "built in $((SECONDS - begin)) s"
}

# What a finished build depends on beside the times of files.
fingerprint() {
  printf '%s\n' "$root" "${OUTSTEP_TORCH:-}"
  [[ ! -e $root/.git ]] || git -C "$root" rev-parse HEAD 2>/dev/null || true
}

# True if nothing has changed since TARGET of PRESET was last built.
is_current() {
  local stamp=$root/build/$1/built-$2 places=(src cmake CMakeLists.txt CMakePresets.json requirements.txt)
  [[ -e $stamp && $(<"$stamp") == "$(fingerprint)" && -e $(torch_folder)/include/ATen/ATen.h ]] || return
  [[ $2 == outstep ]] || places+=(tests bench)
  [[ -z $(cd "$root" && find "${places[@]}" -newer "$root/build/$1/built-$2" -print -quit 2>&1) ]]
}

# bring_up PRESET TARGET: sets up and builds what is missing; does nothing, and takes no lock, when nothing has changed.
bring_up() {
  local stamp=$root/build/$1/built-$2
  is_current "$1" "$2" && return
  lock "./${0##*/} building $2"
  is_current "$1" "$2" && return # whoever held the lock has built it
  SECONDS=0
  need_tools "$1"
  need_torch
  configure "$1"
  fingerprint >"$stamp.new" # before building, so that what is edited meanwhile counts as newer
  build "$1" "$2"
  [[ $2 == outstep ]] || cp -p "$stamp.new" "$root/build/$1/built-outstep"
  mv "$stamp.new" "$stamp"
}
