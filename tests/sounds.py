"""Sound files that the tests of audio make."""

import numpy as np
import soundfile


def tone(rate, seconds=0.5):
    """200 and 900 Hz, fading in and out."""
    at = np.arange(round(rate * seconds)) / rate
    wave = np.sin(2 * np.pi * 200 * at) + np.sin(2 * np.pi * 900 * at)
    return 0.2 * wave * np.hanning(len(at))


def samples(*wave, rate=16000):
    def write(path):
        soundfile.write(path, np.concatenate(wave), rate, "FLOAT")

    return write


LOUD = tone(16000)


def cut(path, share=0.5):
    """Leave a share of a file's bytes."""
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


def write_media(
    path, codec, rate=48000, pitch=200, video=False, audio=True, **options
):
    """Write 2 s of a rising tone with PyAV; return it, [T]."""
    import av

    at = np.arange(2 * rate) / rate
    wave = (0.3 * np.sin(2 * np.pi * (pitch + 300 * at) * at)).astype(
        np.float32
    )
    with av.open(str(path), "w", **options) as out:
        streams = []
        if video:
            streams.append(out.add_stream("mpeg4", rate=5))
            streams[0].width = streams[0].height = 64
            streams[0].pix_fmt = "yuv420p"
        if audio:
            streams.append(out.add_stream(codec, rate=rate, layout="mono"))
            context = streams[-1].codec_context
            fit = av.AudioResampler(
                context.format, "mono", rate, context.frame_size or 1024
            )
        if video:
            for number in range(20):
                frame = av.VideoFrame(64, 64, "yuv420p")
                frame.pts = number
                for plane in frame.planes:
                    plane.update(bytes(plane.buffer_size))
                out.mux(streams[0].encode(frame))
        if audio:
            frame = av.AudioFrame.from_ndarray(wave[None], "fltp", "mono")
            frame.sample_rate, frame.pts = rate, 0
            for part in fit.resample(frame) + fit.resample(None):
                out.mux(streams[-1].encode(part))
        for stream in streams:
            out.mux(stream.encode(None))
    return wave
