//! What can fail as a whole, and how many copies that leaves.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// What a site shares with others. What is not said may be the same as anywhere else.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SiteSpec {
    /// What the site's data lie on, where several hosts share it: an array, a volume of the network. Hosts of which it is
    /// not said have disks of their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<String>,
    /// The machine, where sites or vaults share one. A site of which it is not said has that of its agent's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// What fails together: a room, a rack, a power supply.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault_domain: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Who runs it: a cloud, a hoster, oneself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
}

/// In how many different places the data are to be, the original among them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CopiesWanted {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disks: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hosts: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault_domains: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zones: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub regions: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub providers: Option<u32>,
}

/// Where one copy is, or the original.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyPlace<'a> {
    /// `None` where it is not known.
    pub host: Option<&'a str>,
    pub site: &'a SiteSpec,
}

/// In how many different places the data are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyCount {
    /// The original among them.
    pub copies: u32,
    #[serde(default)]
    pub disks: u32,
    pub hosts: u32,
    pub fault_domains: u32,
    pub zones: u32,
    pub regions: u32,
    pub providers: u32,
}

impl CopyCount {
    /// Places of which something is not known are taken for the same place as any other.
    pub fn of(places: &[CopyPlace<'_>]) -> Self {
        // Of one host a disk that has a name may be the one that has none.
        let has_named_disk =
            |host: &str| places.iter().any(|other| other.host == Some(host) && other.site.disk.is_some());
        let different = |of: &dyn Fn(&CopyPlace<'_>) -> Option<String>| -> u32 {
            let known: BTreeSet<String> = places.iter().filter_map(of).collect();
            u32::try_from(known.len()).unwrap_or(u32::MAX).max(u32::from(!places.is_empty()))
        };
        Self {
            copies: u32::try_from(places.len()).unwrap_or(u32::MAX),
            disks: different(&|place| match (&place.site.disk, place.host) {
                (Some(disk), _) => Some(format!("disk {disk}")),
                (None, host) => host.filter(|&host| !has_named_disk(host)).map(|host| format!("host {host}")),
            }),
            hosts: different(&|place| place.host.map(str::to_string)),
            fault_domains: different(&|place| place.site.fault_domain.clone()),
            zones: different(&|place| place.site.zone.clone()),
            regions: different(&|place| place.site.region.clone()),
            providers: different(&|place| place.site.provider.clone()),
        }
    }

    /// What is wanted and not so, in words.
    pub fn missing(&self, wanted: &CopiesWanted) -> Vec<String> {
        let kinds = [
            ("disks", self.disks, wanted.disks),
            ("hosts", self.hosts, wanted.hosts),
            ("fault domains", self.fault_domains, wanted.fault_domains),
            ("zones", self.zones, wanted.zones),
            ("regions", self.regions, wanted.regions),
            ("providers", self.providers, wanted.providers),
        ];
        let missing = kinds.into_iter().filter_map(|(kind, is, wanted)| {
            let wanted = wanted.filter(|wanted| *wanted > is)?;
            Some(format!("the data are in {is} of {wanted} {kind} that copies asks for"))
        });
        missing.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(zone: &str, region: &str) -> SiteSpec {
        let known = |text: &str| Some(text.to_string()).filter(|text| !text.is_empty());
        SiteSpec { zone: known(zone), region: known(region), ..SiteSpec::default() }
    }

    #[test]
    fn what_is_not_known_counts_as_the_same() {
        let check = |sites: &[SiteSpec], zones: u32, regions: u32| {
            let places: Vec<CopyPlace<'_>> = sites.iter().map(|site| CopyPlace { host: Some("h"), site }).collect();
            let count = CopyCount::of(&places);
            assert_eq!((count.zones, count.regions, count.copies), (zones, regions, sites.len() as u32));
        };
        check(&[], 0, 0);
        check(&[site("", "")], 1, 1);
        check(&[site("a1", "a"), site("a2", "a")], 2, 1);
        check(&[site("a1", "a"), site("", "b")], 1, 2);
        check(&[site("", ""), site("", "")], 1, 1);
    }

    #[test]
    fn each_kind_of_place_is_counted_by_its_own_name() {
        // Seven copies, and of each kind another number of different places.
        let name = |number: u32, different: u32| Some(number.min(different - 1).to_string());
        let hosts: Vec<String> = (0..7).map(|number: u32| number.min(5).to_string()).collect();
        let site = |number: u32| SiteSpec {
            disk: name(number, 7),
            host: None,
            fault_domain: name(number, 5),
            zone: name(number, 4),
            region: name(number, 3),
            provider: name(number, 2),
        };
        let sites: Vec<SiteSpec> = (0..7).map(site).collect();
        let place = |(site, host)| CopyPlace { host: Some(String::as_str(host)), site };
        let places: Vec<CopyPlace<'_>> = sites.iter().zip(&hosts).map(place).collect();
        let count = CopyCount::of(&places);
        let expected =
            CopyCount { copies: 7, disks: 7, hosts: 6, fault_domains: 5, zones: 4, regions: 3, providers: 2 };
        assert_eq!(count, expected);
        // What is wanted of each kind is compared with that kind.
        let wanted = CopiesWanted {
            disks: Some(7),
            hosts: Some(6),
            fault_domains: Some(5),
            zones: Some(4),
            regions: Some(3),
            providers: Some(2),
        };
        assert_eq!(count.missing(&wanted), [""; 0]);
        let more = |count: Option<u32>| count.map(|count| count + 1);
        let wanted = CopiesWanted {
            disks: more(wanted.disks),
            hosts: more(wanted.hosts),
            fault_domains: more(wanted.fault_domains),
            zones: more(wanted.zones),
            regions: more(wanted.regions),
            providers: more(wanted.providers),
        };
        let said = |is: u32, kind: &str| format!("the data are in {is} of {} {kind} that copies asks for", is + 1);
        let kinds = [(7, "disks"), (6, "hosts"), (5, "fault domains"), (4, "zones"), (3, "regions"), (2, "providers")];
        assert_eq!(count.missing(&wanted), kinds.map(|(is, kind)| said(is, kind)));
    }

    #[test]
    fn hosts_have_disks_of_their_own_unless_they_share_one() {
        let on = |disk: Option<&str>| SiteSpec { disk: disk.map(str::to_string), ..SiteSpec::default() };
        let check = |disks: [Option<&str>; 2], hosts: [Option<&str>; 2], expected: u32| {
            let sites = disks.map(on);
            let places = [0, 1].map(|number| CopyPlace { host: hosts[number], site: &sites[number] });
            assert_eq!(CopyCount::of(&places).disks, expected, "{disks:?} of {hosts:?}");
        };
        let (e, w) = (Some("e"), Some("w"));
        check([None, None], [e, w], 2);
        check([None, None], [e, e], 1);
        check([Some("san"), Some("san")], [e, w], 1);
        check([Some("sda"), Some("sdb")], [e, e], 2);
        check([Some("w"), None], [e, w], 2);
        // The one that has no name may be the one that has.
        check([Some("san"), None], [w, w], 1);
        check([None, Some("san")], [w, w], 1);
        // A vault of which nothing is said may be anywhere.
        check([None, None], [e, None], 1);
        check([None, Some("tank")], [e, None], 2);
    }

    #[test]
    fn what_is_missing_is_said() {
        let (east, west) = (site("a1", "a"), site("a2", "a"));
        let count =
            CopyCount::of(&[CopyPlace { host: Some("e"), site: &east }, CopyPlace { host: Some("w"), site: &west }]);
        let wanted = CopiesWanted { zones: Some(2), regions: Some(2), ..CopiesWanted::default() };
        assert_eq!(count.missing(&wanted), ["the data are in 1 of 2 regions that copies asks for"]);
    }
}
