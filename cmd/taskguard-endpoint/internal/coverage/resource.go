package coverage

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"
)

// Statuses, resource types and management types, as GuardDuty's API has them.
const (
	Healthy   = "HEALTHY"
	Unhealthy = "UNHEALTHY"

	TypeEC2 = "EC2"
	TypeECS = "ECS"

	AutoManaged = "AUTO_MANAGED"
	Manual      = "MANUAL"
)

// Resource is what is covered, or should be: GuardDuty's CoverageResource, and when it was last heard of.
type Resource struct {
	AccountID string    `json:"accountId"`
	Status    string    `json:"coverageStatus"`
	Issue     string    `json:"issue,omitempty"`
	ID        string    `json:"resourceId"`
	Details   Details   `json:"resourceDetails"`
	UpdatedAt time.Time `json:"updatedAt"`         // when the status changed
	LastSeen  time.Time `json:"lastSeen,omitzero"` // when the agent was heard of, by the endpoint's clock
	Region    string    `json:"region,omitempty"`
}

// Details says what kind of resource it is: one of EC2 and ECS.
type Details struct {
	Type string          `json:"resourceType"`
	EC2  *EC2Details     `json:"ec2InstanceDetails,omitempty"`
	ECS  *ClusterDetails `json:"ecsClusterDetails,omitempty"`
}

// EC2Details are of an instance. Hosts that are none have their machine id, or their name, for an instance id.
type EC2Details struct {
	InstanceID     string       `json:"instanceId"`
	InstanceType   string       `json:"instanceType"`
	ClusterARN     string       `json:"clusterArn"`
	AgentDetails   AgentDetails `json:"agentDetails"`
	ManagementType string       `json:"managementType"`
}

// AgentDetails are of an agent.
type AgentDetails struct {
	Version string `json:"version"`
}

// ClusterDetails are of an ECS cluster.
type ClusterDetails struct {
	Name               string                   `json:"clusterName"`
	ContainerInstances ContainerInstanceDetails `json:"containerInstanceDetails"`
}

// ContainerInstanceDetails counts the container instances of a cluster.
type ContainerInstanceDetails struct {
	Covered    int `json:"coveredContainerInstances"`
	Compatible int `json:"compatibleContainerInstances"`
}

// Change is an event in the form of Amazon EventBridge that tells that a resource's status has changed.
type Change struct {
	Version    string    `json:"version"`
	ID         string    `json:"id"` // the same whenever this change is told
	DetailType string    `json:"detail-type"`
	Source     string    `json:"source"`
	Account    string    `json:"account"`
	Time       time.Time `json:"time"`
	Region     string    `json:"region"`
	Resources  []string  `json:"resources"`
	Detail     Detail    `json:"detail"`
}

// Detail is what has changed.
type Detail struct {
	SchemaVersion  string    `json:"schemaVersion"`
	AccountID      string    `json:"resourceAccountId"`
	CurrentStatus  string    `json:"currentStatus"`
	PreviousStatus string    `json:"previousStatus"` // empty: it was not known before
	Details        Details   `json:"resourceDetails"`
	Issue          string    `json:"issue"`
	LastUpdatedAt  time.Time `json:"lastUpdatedAt"`
}

// Source is that of changes, as EventBridge has it.
const Source = "taskguard"

// changeOf returns the change that has led to what a resource is now.
func changeOf(r *Resource, previous string) Change {
	word := "Healthy"
	if r.Status == Unhealthy {
		word = "Unhealthy"
	}
	id := sha256.Sum256(fmt.Appendf(nil, "%s %s %s %s %d", r.Details.Type, r.AccountID, r.ID, r.Status, r.UpdatedAt.UnixNano()))
	return Change{
		Version: "0", ID: uuid(id[:]), DetailType: "TaskGuard Runtime Protection " + word, Source: Source, Account: r.AccountID,
		Time: r.UpdatedAt, Region: r.Region, Resources: []string{}, Detail: Detail{
			SchemaVersion: "1.0", AccountID: r.AccountID, CurrentStatus: r.Status, PreviousStatus: previous,
			Details: r.Details, Issue: r.Issue, LastUpdatedAt: r.UpdatedAt,
		},
	}
}

func uuid(b []byte) string {
	text := hex.EncodeToString(b[:16])
	return text[:8] + "-" + text[8:12] + "-" + text[12:16] + "-" + text[16:20] + "-" + text[20:]
}

// Text is the change as JSON, as EventBridge gives it to its targets.
func (c *Change) Text() ([]byte, error) { return json.Marshal(c) }

// compare orders resources: instances after clusters, by account and id.
func compare(a, b Resource) int {
	return cmp.Or(-cmp.Compare(a.Details.Type, b.Details.Type), cmp.Compare(a.AccountID, b.AccountID), cmp.Compare(a.ID, b.ID))
}
