#!/usr/bin/env python3
"""Every option and command of an NBD server, sensible and not, by libnbd.

nbd-conformance.py ADDRESS EXPORT FROZEN: EXPORT (8 MiB, writable, blank), FROZEN (read-only).
ADDRESS is the path of a socket, or HOST:PORT. TLS_CERTIFICATES (a folder) or TLS_PSK (USER:FILE): speak TLS.
Prints `ok N checks`; a failure says which. libnbd sends what it is told to in strict mode 0.
"""
import errno
import os
import sys
import nbd

address, export, frozen = sys.argv[1:4]
MIB = 1 << 20
SIZE = 8 * MIB
LAST = 2**64 - 1
checks = 0


def connect(name=export, structured=True, contexts=(), opt_mode=False):
    h = nbd.NBD()
    h.set_strict_mode(0)
    h.set_export_name(name)
    h.set_request_structured_replies(structured)
    for context in contexts:
        h.add_meta_context(context)
    h.set_opt_mode(opt_mode)
    certificates, psk = os.environ.get("TLS_CERTIFICATES"), os.environ.get("TLS_PSK")
    if certificates or psk:
        h.set_tls(nbd.TLS_REQUIRE)
    if certificates:
        h.set_tls_certificates(certificates)
    if psk:
        user, path = psk.split(":", 1)
        h.set_tls_username(user)
        h.set_tls_psk_file(path)
    if "/" in address:
        h.connect_unix(address)
    else:
        h.connect_tcp(*address.split(":"))
    check("TLS", h.get_tls_negotiated(), bool(certificates or psk))
    return h


def check(what, got, wanted=True):
    global checks
    checks += 1
    if got != wanted:
        sys.exit(f"FAILED: {what}: got {got!r}, wanted {wanted!r}")


def number(work):
    try:
        work()
        return 0
    except nbd.Error as error:
        return error.errnum


def options():
    h = connect(opt_mode=True)
    names = []
    check("list", h.opt_list(lambda name, text: names.append(name) or 0), 2)
    check("names", sorted(names), sorted([export, frozen]))
    h.set_export_name("none")
    check("info of nothing", number(h.opt_info), errno.ENOENT)
    check("go to nothing", number(h.opt_go), errno.ENOENT)
    h.set_export_name(export)
    h.opt_info()
    facts = (h.get_size(), h.can_flush(), h.can_df(), h.can_multi_conn(), h.can_cache())
    found = []
    check("contexts", h.opt_list_meta_context(lambda name: found.append(name) or 0), 2)
    check("context names", found, ["base:allocation", "x-uvdo:mapping"])
    h.opt_go()
    check("facts after go", (h.get_size(), h.can_flush(), h.can_df(), h.can_multi_conn(), h.can_cache()), facts)
    check("size", h.get_size(), SIZE)
    check("block sizes", [h.get_block_size(i) for i in (0, 1, 2)], [1, 4096, 32 * MIB])
    check("flags", [h.can_fua(), h.can_trim(), h.can_zero(), h.can_fast_zero(), h.is_rotational(), h.is_read_only()],
          [True, True, True, True, False, False])
    h.shutdown()
    connect(opt_mode=True).opt_abort()
    h = connect("")
    check("default export", h.get_size(), SIZE)
    h.shutdown()
    h = connect(structured=False)
    check("no DF without structured replies", h.can_df(), False)
    check("simple read", bytes(h.pread(10, 0)), bytes(10))
    h.shutdown()


def errors(structured):
    h = connect(structured=structured)
    for offset in (SIZE, SIZE - 100, 2**63, LAST - 4095, LAST):
        check(f"read at {offset}", number(lambda: h.pread(4096, offset)), errno.EINVAL)
        check(f"write at {offset}", number(lambda: h.pwrite(bytes(4096), offset)), errno.ENOSPC)
        check(f"zero at {offset}", number(lambda: h.zero(4096, offset)), errno.ENOSPC)
        check(f"trim at {offset}", number(lambda: h.trim(4096, offset)), errno.EINVAL)
        check(f"cache at {offset}", number(lambda: h.cache(4096, offset)), errno.EINVAL)
    check("unknown flag", number(lambda: h.pread(4096, 0, 1 << 9)), errno.EINVAL)
    check("unknown flag of a write", number(lambda: h.pwrite(bytes(100000), 0, 1 << 9)), errno.EINVAL)
    check("fast zero of parts", number(lambda: h.zero(4096, 1, nbd.CMD_FLAG_FAST_ZERO)), errno.EOPNOTSUPP)
    check("fast zero of blocks", number(lambda: h.zero(8192, 4096, nbd.CMD_FLAG_FAST_ZERO)), 0)
    check("trim beyond the end", number(lambda: h.trim(2**32 - 1, 0)), errno.EINVAL)
    check("status without context", number(lambda: h.block_status(4096, 0, lambda *a: 0)) != 0)
    for what, work in (("read", lambda: h.pread(0, 0)), ("write", lambda: h.pwrite(b"", 0)),
                       ("trim", lambda: h.trim(0, 0)), ("zero", lambda: h.zero(0, 0)), ("cache", lambda: h.cache(0, 0))):
        check(f"{what} of nothing is answered", number(work) in (0, errno.EINVAL))
    check("still in step", len(h.pread(4096, 0)), 4096)
    h.shutdown()


def data():
    h = connect()
    pattern = os.urandom(3 * MIB + 333)
    h.pwrite(pattern, 12345, nbd.CMD_FLAG_FUA)
    check("back", bytes(h.pread(len(pattern), 12345)) == pattern)
    h.pwrite(b"x", 777777)
    check("neighbours", bytes(h.pread(3, 777776)), pattern[765431:765432] + b"x" + pattern[765433:765434])
    h.zero(5000, 100001, nbd.CMD_FLAG_NO_HOLE)
    check("zeroed", bytes(h.pread(5002, 100000)), pattern[87655:87656] + bytes(5000) + pattern[92656:92657])
    h.trim(8192, 200704, nbd.CMD_FLAG_FUA)
    check("trimmed", bytes(h.pread(8192, 200704)), bytes(8192))
    h.cache(SIZE, 0)
    h.flush()
    other = connect()
    check("seen by another", bytes(other.pread(5, 12345)), pattern[:5])
    other.flush()
    other.shutdown()
    blocks = [os.urandom(4096) for _ in range(64)]
    cookies = [h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(b)), i * 8192) for i, b in enumerate(blocks)]
    done = set()
    while len(done) < 64:
        done.update(c for c in cookies if c not in done and h.aio_command_completed(c))
        if len(done) < 64:
            h.poll(-1)
    for i, block in enumerate(blocks):
        if bytes(h.pread(4096, i * 8192)) != block:
            check(f"block {i}", False)
    whole = os.urandom(SIZE)
    h.pwrite(whole, 0)
    check("the whole export at once", bytes(h.pread(SIZE, 0)) == whole)
    h.zero(SIZE, 0)
    h.shutdown()


def status():
    h = connect(contexts=("base:allocation", "x-uvdo:mapping"))
    h.pwrite(os.urandom(8192), MIB)
    h.pwrite(os.urandom(4096), 3 * MIB)

    def runs(length, offset, flags=0, context="base:allocation"):
        found = []

        def extent(name, _offset, entries, _error):
            if name == context:
                found.extend(zip(entries[0::2], entries[1::2]))
            return 0
        h.block_status(length, offset, extent, flags)
        return found
    wanted = [(MIB, 3), (8192, 0), (2 * MIB - 8192, 3), (4096, 0), (5 * MIB - 4096, 3)]
    check("status", runs(SIZE, 0), wanted)
    check("one run", runs(SIZE, 0, nbd.CMD_FLAG_REQ_ONE), wanted[:1])
    check("mapping", runs(SIZE, 0, context="x-uvdo:mapping"), [(n, 0 if f else 2) for n, f in wanted])
    check("part of a block", runs(100, MIB + 50), [(100, 0)])
    check("status beyond the end", number(lambda: runs(4096, SIZE)), errno.EINVAL)
    chunks = []
    h.pread_structured(65536, MIB - 32768, lambda buf, off, kind, _e: chunks.append(kind) or 0, nbd.CMD_FLAG_DF)
    check("DF across hole and data", chunks, [nbd.READ_DATA])
    chunks.clear()
    h.pread_structured(65536, 0, lambda buf, off, kind, _e: chunks.append(kind) or 0)
    check("a hole is told as one", chunks, [nbd.READ_HOLE])
    h.zero(SIZE, 0)
    check("all a hole again", runs(SIZE, 0), [(SIZE, 3)])
    h.shutdown()


def read_only():
    h = connect(frozen)
    check("read-only", [h.is_read_only(), h.can_trim(), h.can_zero()], [True, False, False])
    for what, work in (("write", lambda: h.pwrite(bytes(200000), 0)), ("trim", lambda: h.trim(4096, 0)),
                       ("zero", lambda: h.zero(4096, 0))):
        check(f"{what} to a read-only export", number(work), errno.EPERM)
    h.flush()
    check("read of it", len(h.pread(4096, 0)), 4096)
    h.shutdown()


options()
errors(True)
errors(False)
data()
status()
read_only()
print(f"ok {checks} checks")
