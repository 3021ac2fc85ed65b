# guest-lib.sh - functions for scripts that run inside the kernel under test; both engines source it.
# DISKS holds the block devices. Sizes are in blocks of 4096 bytes unless said otherwise.

# vdo_config DEV [FIELD]: the volume's configuration, read from its geometry block and super block,
# as 'key: value' lines, or the one value alone. Few processes: they are dear in User Mode Linux.
vdo_config() {
  local dev=$1 want=${2:-} b s=0 data REPLY
  local states=(dirty new clean read-only force-rebuild recovering replaying rebuild-for-upgrade)
  u() { local i; REPLY=0; for ((i = $1 + $2 - 1; i >= $1; i--)); do REPLY=$((REPLY << 8 | b[i])); done; }
  say() { if [ -z "$want" ]; then echo "$1: $REPLY"; elif [ "$want" = "$1" ]; then echo "$REPLY"; fi; }
  b=($(od -An -v -tu1 -N128 "$dev"))
  [ "${b[*]:0:8}" = "100 109 118 100 111 48 48 49" ] || { echo "vdo_config: no VDO on $dev" >&2; return 1; }
  u 12 4; [ $REPLY -le 4 ] || s=8 # version 5 has a bio offset
  u $((72 + s)) 8; data=$REPLY
  if [ $s != 0 ]; then u 56 8; data=$((data - REPLY)); fi
  REPLY=$data; say data_start
  u $((80 + s)) 4; say index_memory # 4294967040 = 0.25 GB
  b=($(od -An -v -tu1 -j$((data * 4096)) -N128 "$dev"))
  u 40 4; REPLY=${states[REPLY]}; say state
  u 44 8; say complete_recoveries
  u 52 8; say read_only_recoveries
  u 60 8; say logical_blocks
  u 68 8; say physical_blocks
}

# vdo_start DEV NAME [TABLE ARGUMENT...]: starts the volume as /dev/mapper/NAME. Deduplication is
# off where the volume has no index. VDO_CACHE is the block map cache in blocks, VDO_ERA its maximum
# age, VDO_ON the device to run on instead of DEV (a device-mapper layer over it).
# Examples of arguments: compression on, deduplication off, maxDiscard 1500, ack 1 bio 2 cpu 1.
vdo_start() {
  local dev=$1 name=$2 key value logical= physical dedupe=; shift 2
  while read -r key value; do
    case $key in
      logical_blocks:) logical=$value ;; physical_blocks:) physical=$value ;;
      index_memory:) [ "$value" != 0 ] || dedupe="deduplication off" ;;
    esac
  done < <(vdo_config "$dev")
  [ -n "$logical" ] || return 1
  dmsetup create "$name" --table "0 $((logical * 8)) vdo V4 ${VDO_ON:-$dev} $physical ${VDO_MIN_IO:-4096} ${VDO_CACHE:-8192} ${VDO_ERA:-16380} $dedupe $*"
}

# vdo_stop NAME: stops it; the volume is clean afterwards.
vdo_stop() { dmsetup remove --retry "$1"; }

# vdo_grow NAME LOGICAL PHYSICAL: grows a running volume to these sizes.
vdo_grow() {
  local table
  table=$(dmsetup table "$1" | awk -v l="$2" -v p="$3" '{ $2 = l * 8; $6 = p; print }')
  dmsetup reload "$1" --table "$table" && dmsetup suspend "$1" && dmsetup resume "$1"
}

# vdo_status NAME [FIELD]: device, mode, recovery, index, compression, used, total.
vdo_status() {
  dmsetup status "$1" | awk -v f="${2:-}" '{
    n = split("device mode recovery index compression used total", k)
    for (i = 1; i <= n; i++) if (f == "") print k[i] ": " $(i + 3); else if (f == k[i]) print $(i + 3) }'
}

# vdo_wait_index NAME [SECONDS]: waits until the deduplication index is online.
vdo_wait_index() {
  local i
  for ((i = 0; i < ${2:-120} * 10; i++)); do
    case $(vdo_status "$1" index) in online) return ;; error | offline | closed | "") break ;; esac
    sleep 0.1
  done
  echo "vdo_wait_index: $(dmsetup status "$1")" >&2
  return 1
}

# vdo_wait_recovery NAME [SECONDS]: waits until a recovery has ended.
vdo_wait_recovery() {
  local i
  for ((i = 0; i < ${2:-120} * 10; i++)); do
    case $(dmsetup status "$1") in *" recovering "*) sleep 0.1 ;; *) return ;; esac
  done
  return 1
}

# vdo_stats NAME [KEY]: the statistics as 'key: value' lines (nested ones as 'biosIn.read: 12'), or
# one value alone.
vdo_stats() {
  dmsetup message "$1" 0 stats | sed 's/\([{},]\)/\n\1\n/g' | awk -v only="${2:-}" '
    { sub(/^ +/, ""); sub(/ +$/, "") }
    / : ./ { i = index($0, " : "); key = prefix substr($0, 1, i - 1); value = substr($0, i + 3)
             if (only == "") print key ": " value; else if (only == key) print value; next }
    / :$/  { prefix = substr($0, 1, length($0) - 2) "."; next }
    /^}/   { prefix = "" }'
}

# drop_caches: forgets what Linux has cached of any device.
drop_caches() { sync; echo 3 >/proc/sys/vm/drop_caches; }

# extent_sha DEV OFFSET LENGTH (bytes): the SHA-256 of a part of a device.
extent_sha() {
  dd if="$1" bs=1M iflag=skip_bytes,count_bytes skip="$2" count="$3" status=none | sha256sum | cut -d' ' -f1
}

# verify_manifest DEV MANIFEST: checks every extent of the manifest's .extents ({name, offset, length,
# sha256}, bytes); prints what differs.
verify_manifest() {
  local bad=0 n=0 offset length sha name got
  while read -r offset length sha name; do
    got=$(extent_sha "$1" "$offset" "$length"); n=$((n + 1))
    if [ "$got" != "$sha" ]; then echo "DIFFERS: $name offset $offset length $length: $got, not $sha"; bad=$((bad + 1)); fi
  done < <(jq -r '.extents[] | "\(.offset) \(.length) \(.sha256) \(.name // "-")"' "$2")
  echo "verified: $n extents, $bad differ"
  [ $bad = 0 ] && [ $n -gt 0 ]
}

# put FILE DEV OFFSET (bytes): writes a file to a device, directly, 4 KiB at a time.
put() { dd if="$1" of="$2" bs=4096 oflag=seek_bytes,direct seek="$3" conv=notrunc status=none; }
