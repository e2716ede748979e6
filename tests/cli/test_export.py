from __future__ import annotations


def test_the_files_are_told_with_their_sizes(regard_command, trained, tmp_path):
    folder = tmp_path / "model"
    result = regard_command("export", trained, "--to", "onnx", "--out", folder)
    assert (result.code, result.err) == (0, "")
    told = [line.split() for line in result.out.splitlines()]
    assert [name for _, name in told] == [
        str(folder / name) for name in ("encoder.onnx", "decoder.onnx", "tokenizer.json")
    ]
    assert [int(size.replace(",", "")) for size, _ in told] == [
        (folder / name).stat().st_size for name in ("encoder.onnx", "decoder.onnx", "tokenizer.json")
    ]


def test_options_are_checked(refused, trained, tmp_path):
    assert "did you mean 'onnx'" in refused("export", trained, "--to", "onx", "--out", tmp_path / "model")
    assert "--to" in refused("export", trained, "--out", tmp_path)
    assert "--out" in refused("export", trained, "--to", "onnx")
    assert "holds no run" in refused("export", tmp_path, "--to", "onnx", "--out", tmp_path / "model")
