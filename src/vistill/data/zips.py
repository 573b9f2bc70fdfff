"""Pictures and clips inside `.zip` files."""

import posixpath
import struct
import zipfile
import zlib
from difflib import get_close_matches
from pathlib import Path, PurePosixPath

import numpy as np

from vistill.data.archive import ArchiveSource
from vistill.data.broken import BrokenImage
from vistill.data.names import NamePacker
from vistill.data.passed_over import PassedOver
from vistill.data.source import PICTURES, Media, hidden
from vistill.data.stamps import Stamps
from vistill.errors import UserError

LOCAL_HEADER = 30


class ZipSource(ArchiveSource):
    """One or more `.zip`, or one folder inside it. Labels come from folders."""

    def __init__(
        self, name: str, files: list[Path], inside: str = "", media: Media = PICTURES
    ) -> None:
        prefix = f"{inside}/" if inside else ""
        passed, names, rows = PassedOver(media), NamePacker(), []
        for number, file in enumerate(files):
            for path, member in sorted(_members(file), key=lambda found: found[0]):
                if not path.startswith(prefix) or hidden(path):
                    continue
                if not media.holds(path):
                    passed.add(path)
                    continue
                _require_readable(file, member)
                names.add(self.front(files, number) + path.removeprefix(prefix))
                sizes = (member.header_offset, member.compress_size, member.file_size)
                rows.append((number, *sizes, member.compress_type, member.CRC))
        if not len(names):
            raise _no_folder(files[0], inside) or passed.error(name)
        table = np.array(rows, dtype=np.int64)
        super().__init__(name, files, names.names(), table, media)
        self.notes = passed.notes()
        self.label_by_own_folders(files)

    def stamps(self) -> Stamps:
        stamps = self._stamped((self._places[:, 3] << 32) ^ self._places[:, 5])
        stamps[:, 1] = 0  # the checksum tells all
        return stamps

    def read(self, i: int) -> bytes:
        file, offset, packed, size, method, checksum = self._places[i].tolist()
        header = self._read_at(file, offset, LOCAL_HEADER)
        if header[:4] != b"PK\3\4":
            raise BrokenImage("the zip is damaged here")
        data = self._read_at(
            file, offset + LOCAL_HEADER + sum(struct.unpack("<HH", header[26:])), packed
        )
        if method == zipfile.ZIP_DEFLATED:
            try:
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size)
            except zlib.error as error:
                raise BrokenImage("the zip is damaged here") from error
        if zlib.crc32(data) != checksum:
            raise BrokenImage("its checksum in the zip does not match")
        return data


def _members(file: Path) -> list[tuple[str, zipfile.ZipInfo]]:
    """The files inside by path; some programs on Windows write `\\` where `/` belongs."""
    try:
        with zipfile.ZipFile(file) as archive:
            found = [(m.filename.replace("\\", "/"), m) for m in archive.infolist()]
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"'{file}' is damaged or no zip: {error}") from error
    return [(path, member) for path, member in found if not path.endswith("/")]


def _no_folder(file: Path, inside: str) -> UserError | None:
    """The error where there is no such folder, with the nearest that is there."""
    folders = {posixpath.dirname(path) for path, _ in _members(file)} - {""}
    folders |= {parent.as_posix() for path in folders for parent in PurePosixPath(path).parents}
    if not inside or inside in folders:
        return None
    near = get_close_matches(inside, folders, n=1)
    hint = f"; did you mean '{file}/{near[0]}'?" if near else ""
    return UserError(f"'{file}' holds no folder '{inside}'{hint}")


def _require_readable(file: Path, member: zipfile.ZipInfo) -> None:
    if member.flag_bits & 1:
        raise UserError(f"'{file}' is encrypted; unpack it and give the folder")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UserError(
            f"'{file}' is compressed in a way that cannot be read ('{member.filename}'); "
            "unpack it and give the folder"
        )
