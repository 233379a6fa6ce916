package batch

import (
	"errors"
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// ErrTooLarge says that a batch would exceed MaxSize when decompressed.
var ErrTooLarge = errors.New("batch exceeds its size limit when decompressed")

// Codec compresses and decompresses batches. It is safe for concurrent use. Make one with NewCodec.
type Codec struct {
	encoder *zstd.Encoder
	decoder *zstd.Decoder
}

// NewCodec returns a codec. It holds no goroutines and needs no Close.
func NewCodec() (*Codec, error) {
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(true),
		zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithLowerEncoderMem(true), zstd.WithWindowSize(512<<10))
	if err != nil {
		return nil, fmt.Errorf("create zstd encoder: %w", err)
	}
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(MaxSize),
		zstd.WithDecoderMaxWindow(MaxSize), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, fmt.Errorf("create zstd decoder: %w", err)
	}
	return &Codec{encoder: encoder, decoder: decoder}, nil
}

// Compress appends the batch as one zstd frame with a checksum to dst.
func (c *Codec) Compress(dst, data []byte) []byte { return c.encoder.EncodeAll(data, dst) }

// Decompress appends the content of a frame to dst. It uses memory for at most MaxSize bytes, whatever the frame
// says, and returns ErrTooLarge for a frame that holds more.
func (c *Codec) Decompress(dst, frame []byte) ([]byte, error) {
	// The decoder counts what is in its buffer already as output: give it the empty end of dst.
	out, err := c.decoder.DecodeAll(frame, dst[len(dst):])
	switch {
	case errors.Is(err, zstd.ErrDecoderSizeExceeded), errors.Is(err, zstd.ErrWindowSizeExceeded):
		return nil, fmt.Errorf("decompress batch: %w", ErrTooLarge)
	case err != nil:
		return nil, fmt.Errorf("decompress batch: %w", err)
	case len(out) > MaxSize:
		return nil, fmt.Errorf("decompress batch: %w", ErrTooLarge)
	}
	return append(dst, out...), nil
}
