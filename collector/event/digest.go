package event

// FileVersion identifies what a file holds. Of an overlay's file, Device and Inode are those of the file in one of its
// layers where that is known, so that all containers of an image have one. The zero FileVersion is unknown.
type FileVersion struct {
	Device  Device
	Inode   uint64
	Size    uint64 // bytes
	Changed uint64 // the file's time of change, ns since 1970
}

// Digest says what a file holds. All is empty where nobody asked.
type Digest struct {
	SHA256 string `json:"sha256,omitempty"` // hexadecimal
	// HashState says why there is no SHA256.
	HashState HashState `json:"hash_state,omitempty"`
	// FSVerity is the digest that the kernel holds the file's bytes to, where it has been told one: "sha256:" or "sha512:"
	// and hexadecimal digits (fs-verity).
	FSVerity string `json:"fs_verity,omitempty"`
}

// HashState is why a file has no SHA-256.
type HashState string

// The reasons.
const (
	HashPending     HashState = "pending"      // it was not read yet when the event was sealed; a later batch may tell
	HashTooLarge    HashState = "too_large"    // it is larger than the agent reads
	HashVanished    HashState = "vanished"     // it was not found any more where its processes see it
	HashChanged     HashState = "changed"      // it was changed since
	HashRateLimited HashState = "rate_limited" // there were too many others to be read
	HashError       HashState = "error"
)

// FileDigest is the digest of a version of a file.
type FileDigest struct {
	Version FileVersion
	Digest  Digest
}
