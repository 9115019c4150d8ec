"""What may happen to a checkpoint on a disk."""

import shutil

HASHES = "SHA256SUMS"


def _some_file(folder, draw):
    return draw.choice(sorted(folder.iterdir()))


def _a_bit(folder, draw):
    path = _some_file(folder, draw)
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)
    return path.name


def _a_bit_of_weights(folder, draw):
    path = folder / draw.choice(["encoder.ckpt", "head.ckpt"])
    path = path if path.exists() else folder / "first.ckpt"
    content = bytearray(path.read_bytes())
    content[-draw.randrange(1, 100)] ^= 1 << draw.randrange(8)
    path.write_bytes(content)
    return path.name


def _truncated(folder, draw):
    path = _some_file(folder, draw)
    content = path.read_bytes()
    path.write_bytes(content[: draw.randrange(len(content))])
    return path.name


def _longer(folder, draw):
    path = _some_file(folder, draw)
    path.write_bytes(path.read_bytes() + b"\0")
    return path.name


def _empty(folder, draw):
    path = _some_file(folder, draw)
    path.write_bytes(b"")
    return path.name


def _missing(folder, draw):
    path = _some_file(folder, draw)
    path.unlink()
    return path.name


def _a_folder(folder, draw):
    path = _some_file(folder, draw)
    path.unlink()
    path.mkdir()
    return path.name


def _no_meta(folder, draw):
    (folder / "CKPT.yaml").unlink()
    return "CKPT.yaml"


def _garbled_meta(folder, draw):
    (folder / "CKPT.yaml").write_bytes(draw.randbytes(50))
    return "CKPT.yaml"


def _exchanged(folder, draw):
    one, two = draw.sample(sorted(folder.glob("*.ckpt")), 2)
    one.rename(folder / "tmp")
    two.rename(one)
    (folder / "tmp").rename(two)
    return min(one, two).name


def _no_hashes(folder, draw):
    (folder / HASHES).unlink()
    return HASHES


def _other_hash(folder, draw):
    lines = (folder / HASHES).read_text().splitlines(keepends=True)
    which = draw.randrange(len(lines))
    lines[which] = "0" * 64 + lines[which][64:]
    (folder / HASHES).write_text("".join(lines))
    return lines[which].split()[1]


def _line_missing(folder, draw):
    lines = (folder / HASHES).read_text().splitlines(keepends=True)
    name = lines.pop(draw.randrange(len(lines))).split()[1]
    (folder / HASHES).write_text("".join(lines))
    return name


def _line_more(folder, draw):
    text = (folder / HASHES).read_text()
    (folder / HASHES).write_text(text + "0" * 64 + "  ../../more\n")
    return "../../more"


def _garbled_hashes(folder, draw):
    (folder / HASHES).write_bytes(draw.randbytes(200))
    return HASHES


def _emptied(folder, draw):
    for path in folder.iterdir():
        path.unlink()
    return HASHES


def _a_file(folder, draw):
    shutil.rmtree(folder)
    folder.write_text("no folder")
    return HASHES


DAMAGES = {
    function.__name__.strip("_").replace("_", " "): function
    for function in (
        *(_a_bit, _a_bit_of_weights, _truncated, _longer, _empty, _missing),
        *(_a_folder, _no_meta, _garbled_meta, _exchanged, _no_hashes),
        *(_other_hash, _line_missing, _line_more, _garbled_hashes),
        *(_emptied, _a_file),
    )
}
"""Name -> function of a checkpoint's folder and a `random.Random`, which does
the damage and gives the name of the file that a warning must tell (of a list of
hashes perhaps that of a file in it)."""
