package event

// Codes of Heartbeat.Issues: these, and no other. What is counted is an issue of the heartbeat when it grew since the
// heartbeat before.
const (
	IssueKindUnhealthy   = "kind_unhealthy"   // followed by ":" and a kind that is wanted and not observed; Sources has the reason
	IssueEventsLost      = "events_lost"      // events were lost, at whatever stage: agent.loss tells of each
	IssueSpoolEvicting   = "spool_evicting"   // batches made room for newer ones, undelivered
	IssueSpoolUnwritable = "spool_unwritable" // the disk did not take batches
	IssueUploadFailing   = "upload_failing"   // no batch was accepted, of those that were tried for more than a minute
	IssueBatchesRejected = "batches_rejected" // the endpoint refused batches for good
	IssueClockSkewed     = "clock_skewed"     // the host's clock differs from the endpoint's by more than five minutes
	IssueExcludedByTag   = "excluded_by_tag"  // the instance's tag says that nothing is to be observed
	IssueIMDSUnreachable = "imds_unreachable" // the instance metadata service does not answer
)

// Issues returns the codes of Heartbeat.Issues, IssueKindUnhealthy without a kind.
func Issues() []string {
	return []string{
		IssueKindUnhealthy, IssueEventsLost, IssueSpoolEvicting, IssueSpoolUnwritable, IssueUploadFailing,
		IssueBatchesRejected, IssueClockSkewed, IssueExcludedByTag, IssueIMDSUnreachable,
	}
}
