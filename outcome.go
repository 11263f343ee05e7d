package etag

// The outcomes of a request.
const (
	outcomeTagged      = "tagged"       // with a tag of ours
	outcomeKept        = "kept"         // with the tag that the backend gave it
	outcomeNotModified = "not_modified" // 304
	outcomeFailed      = "failed"       // 412
	outcomeBypassed    = "bypassed"     // neither tagged nor kept; a write: answered with the internal GET's answer
	outcomePassed      = "passed"       // a write that went downstream
	outcomeRequired    = "required"     // 428
	outcomeLockedOut   = "locked_out"   // 503
)
